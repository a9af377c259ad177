/**
 * Do the columns of a state know of each other? Where nothing folds along them, in no op of the forward, each block of
 * columns is an attention of its own, of the same queries and keys: its outputs and states are columns of the whole's,
 * and gradients of what the blocks share are sums over the blocks.
 */
import { type Op, type Program, type ValueId, allOps } from "./ir.ts";

/** The dim of such columns, "V" as a rule; null: they are not apart. `forward`: as loops over chunks. */
export function columnsApart(forward: Program): string | null {
  const ops = [...allOps(forward.ops)];
  const loops = ops.filter((op) => op.kind === "chunks");
  const states = loops.flatMap(({ region }) => region.params);
  const dims = new Set(states.map(({ type }) => type.shape[1]));
  const [dim] = dims;
  if (typeof dim !== "string" || dims.size > 1) return null;
  const shapes = new Map<ValueId, Op["type"]["shape"]>();
  for (const { id, type } of [...ops, ...states]) shapes.set(id, type.shape);
  const isApart = ops.every((op) => {
    const at = (id: ValueId, axis: number) => shapes.get(id)!.at(axis) === dim;
    if (op.type.shape.slice(0, -1).includes(dim)) return false;
    switch (op.kind) {
      case "reduce":
        return !at(op.arg, op.axis);
      case "matmul":
        return !at(op.lhs, -1);
      case "rotate-half":
        return !at(op.arg, -1);
      case "dim-size":
        return op.dim !== dim;
      default:
        return op.kind !== "iota" || !op.type.shape.includes(dim);
    }
  });
  const isWhole = forward.outputs.every(({ value }) => shapes.get(value)!.includes(dim));
  return isApart && isWhole ? dim : null;
}
