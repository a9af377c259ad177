/** A chunk loop's ops where the length of a chunk is known: squares of blocks as long as it are empty. */
import { type Op, type ValueId, mapOperands, operands } from "./ir.ts";
import { sameShape } from "./types.ts";

/**
 * The ops that `kept` values depend on, which keep their numbers, with zeros in place of what such squares
 * make zero, and without sums that zeros are added in.
 */
export function inChunksOf(
  chunk: number,
  ops: readonly Op[],
  kept: ReadonlySet<ValueId>,
): readonly Op[] {
  const zeros = new Set<ValueId>();
  const became = new Map<ValueId, ValueId>();
  const types = new Map(ops.map((op) => [op.id, op.type]));
  const isZero = (id: ValueId) => zeros.has(id);
  const out: Op[] = [];
  for (const old of ops) {
    const op = mapOperands(old, (id) => became.get(id) ?? id);
    if (vanishes(op, chunk, isZero)) {
      zeros.add(op.id);
      const { id, name, type, span } = op;
      out.push({ kind: "const", value: 0, id, name, type, span });
      continue;
    }
    const rest = withoutZero(op, isZero);
    const isSame =
      rest !== null && types.has(rest) && sameShape(types.get(rest)!.shape, op.type.shape);
    if (isSame && !kept.has(op.id)) became.set(op.id, rest);
    else out.push(op);
  }
  return neededFor(kept, out);
}

/** Ops that values depend on. */
function neededFor(values: ReadonlySet<ValueId>, ops: readonly Op[]): readonly Op[] {
  const needed = new Set(values);
  const found = [...ops].reverse().filter((op) => {
    if (!needed.has(op.id)) return false;
    for (const id of operands(op)) needed.add(id);
    return true;
  });
  return found.reverse();
}

function vanishes(op: Op, chunk: number, isZero: (id: ValueId) => boolean): boolean {
  switch (op.kind) {
    case "block-mask":
      return op.within ? op.within.strict && chunk === 1 : op.block >= chunk;
    case "map":
      if (op.fn === "mul") return op.args.some(isZero);
      return op.fn === "select"
        ? op.args.slice(1).every(isZero)
        : op.args.length > 0 && sumFns.has(op.fn) && op.args.every(isZero);
    case "matmul":
      return isZero(op.lhs) || isZero(op.rhs);
    case "transpose":
    case "cumsum":
      return isZero(op.arg);
    case "reduce":
      return op.fn === "sum" && isZero(op.arg);
    default:
      return false;
  }
}

const sumFns: ReadonlySet<string> = new Set(["add", "sub", "neg"]);

/** What a sum is without an operand that is zero, or null. */
function withoutZero(op: Op, isZero: (id: ValueId) => boolean): ValueId | null {
  if (op.kind !== "map") return null;
  const [a, b] = op.args as [ValueId, ValueId];
  if ((op.fn === "add" || op.fn === "sub") && isZero(b)) return a;
  return op.fn === "add" && isZero(a) ? b : null;
}
