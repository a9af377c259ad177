/**
 * Which axes of a kernel's values run together, and may a class of them be cut into blocks?
 *
 * Two axes are of one class when an op makes them walk in step: operand and result of a map, the
 * contracted axes of a product. A class can be cut over the grid when nothing folds along it (no
 * contraction, no reduction, no rotation) and no value has it along both axes: then every block computes its
 * part alone.
 */
import { type Op, type ValueId, chunkDim, tokenDim } from "../tensor/ir.ts";

export interface AxisClasses {
  /** A name for the class of an axis; equal for axes that walk in step. */
  readonly classOf: (value: ValueId, axis: number) => string;
  readonly canCut: (axisClass: string) => boolean;
}

/** `ops`: everything the kernel computes; `pairs`: values that are one (carried in and out). */
export function axisClasses(
  ops: readonly Op[],
  pairs: readonly (readonly [ValueId, ValueId, number])[],
  shapeOf: (id: ValueId) => readonly (string | number)[],
): AxisClasses {
  const parent = new Map<string, string>();
  const folded = new Set<string>();
  const key = (value: ValueId, axis: number) => `${value}.${axis}`;
  const find = (node: string): string => {
    const up = parent.get(node) ?? node;
    if (up === node) return node;
    const root = find(up);
    parent.set(node, root);
    return root;
  };
  const join = (a: string, b: string) => parent.set(find(a), find(b));
  const fold = (value: ValueId, axis: number) => folded.add(key(value, axis));
  const step = (from: ValueId, to: ValueId, shift = 0) => {
    shapeOf(from).forEach((_, axis) => join(key(from, axis), key(to, axis + shift)));
  };
  for (const [a, b, rank] of pairs) {
    for (let axis = 0; axis < rank; axis++) join(key(a, axis), key(b, axis));
  }
  for (const op of ops) {
    switch (op.kind) {
      case "map":
        for (const arg of op.args) {
          let axis = -1;
          for (const [i, dim] of shapeOf(arg).entries()) {
            axis = op.type.shape.indexOf(dim, axis + 1);
            join(key(arg, i), key(op.id, axis));
          }
        }
        break;
      case "reduce":
        fold(op.arg, op.axis);
        shapeOf(op.arg).forEach((_, axis) => {
          if (axis !== op.axis) {
            join(key(op.arg, axis), key(op.id, axis < op.axis ? axis : axis - 1));
          }
        });
        break;
      case "rotate-half":
        fold(op.arg, shapeOf(op.arg).length - 1);
        step(op.arg, op.id);
        break;
      case "cumsum":
        fold(op.arg, 0);
        step(op.arg, op.id);
        break;
      case "rows": {
        // What is stacked over chunks loses that axis.
        const stacked = shapeOf(op.arg).length - op.type.shape.length;
        op.type.shape.forEach((_, axis) => join(key(op.arg, axis + stacked), key(op.id, axis)));
        break;
      }
      case "solve":
        fold(op.rhs, 0);
        step(op.rhs, op.id);
        break;
      case "transpose":
        join(key(op.arg, 0), key(op.id, 1));
        join(key(op.arg, 1), key(op.id, 0));
        break;
      case "matmul": {
        const [m, n] = [shapeOf(op.lhs).length, shapeOf(op.rhs).length];
        join(key(op.lhs, m - 1), key(op.rhs, 0));
        fold(op.lhs, m - 1);
        if (m === 2) join(key(op.lhs, 0), key(op.id, 0));
        if (n === 2) join(key(op.rhs, 1), key(op.id, m - 1));
        break;
      }
      case "outer":
        join(key(op.lhs, 0), key(op.id, 0));
        join(key(op.rhs, 0), key(op.id, 1));
        break;
      default:
    }
    op.type.shape.forEach((dim, axis) => {
      if (dim === chunkDim || dim === tokenDim) fold(op.id, axis);
    });
  }
  // A square that both axes of run together (k^T k) would be computed along its diagonal alone.
  const values = new Set([...ops.map(({ id }) => id), ...pairs.flatMap(([a, b]) => [a, b])]);
  for (const id of values) {
    if (shapeOf(id).length === 2 && find(key(id, 0)) === find(key(id, 1))) fold(id, 0);
  }
  return {
    classOf: (value, axis) => find(key(value, axis)),
    canCut: (axisClass) => ![...folded].some((node) => find(node) === axisClass),
  };
}
