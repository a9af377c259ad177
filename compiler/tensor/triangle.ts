/**
 * Which squares over the tokens of a chunk are triangles: 0 wherever a token would read one behind it. A product with
 * a triangle leaves these terms out, since 0 times what is no number is none either.
 */
import type { MapOp, Op, ValueId } from "./ir.ts";

/** 0 above the diagonal (`upper`: below it); `strict`: on it as well. */
export interface Triangle {
  readonly upper: boolean;
  readonly strict: boolean;
}

/** `opOf`: the op that makes a value, where it is known. */
export function triangleOf(
  id: ValueId,
  opOf: (id: ValueId) => Op | null | undefined,
): Triangle | null {
  const op = opOf(id);
  switch (op?.kind) {
    case "causal":
      return { upper: op.reverse, strict: op.strict };
    case "block-mask": {
      const { block, reverse: upper, within } = op;
      return { upper, strict: within ? within.strict : block > 0 };
    }
    case "transpose": {
      const triangle = triangleOf(op.arg, opOf);
      return triangle && { ...triangle, upper: !triangle.upper };
    }
    case "matmul": {
      const [a, b] = [triangleOf(op.lhs, opOf), triangleOf(op.rhs, opOf)];
      if (!a || !b || a.upper !== b.upper) return null;
      return { upper: a.upper, strict: a.strict || b.strict };
    }
    case "solve": {
      const triangle = triangleOf(op.rhs, opOf);
      return triangle?.upper === op.upper ? triangle : null;
    }
    case "map":
      return mapped(op, opOf);
    default:
      return null;
  }
}

function mapped(op: MapOp, opOf: (id: ValueId) => Op | null | undefined): Triangle | null {
  const isSquare = (id: ValueId) => opOf(id)?.type.shape.length === 2;
  const args = op.args.map((id) => (isSquare(id) ? triangleOf(id, opOf) : null));
  const [a, b, c] = args;
  switch (op.fn) {
    case "mul":
      return a ?? b ?? null;
    case "div":
    case "neg":
      return a ?? null;
    case "add":
    case "sub":
      return joined(a, b);
    case "select": {
      const other = opOf(op.args[2]!);
      return other?.kind === "const" && other.value === 0 ? (a ?? b ?? null) : joined(b, c);
    }
    default:
      return null;
  }
}

function joined(a: Triangle | null | undefined, b: Triangle | null | undefined): Triangle | null {
  if (!a || !b || a.upper !== b.upper) return null;
  return { upper: a.upper, strict: a.strict && b.strict };
}
