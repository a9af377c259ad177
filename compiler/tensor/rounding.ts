/**
 * What rounding does to a program, for who must tell a wrong number from one that cannot be right to more digits: the
 * interpreter with each result rounded as float32 arithmetic would, and the factors of products as their dtype would.
 */
import type { Op, ValueId } from "./ir.ts";
import type { NdArray } from "./nd-array.ts";

export interface Rounding {
  /** Of the result of an op. */
  readonly result: (x: number) => number;
  /** Of the factors of a product: rounding them is rounding its terms. */
  readonly factor: (x: number) => number;
}

/**
 * Significant bits of results and of factors. Numbers are rounded on a grid `stretch` times as wide: each stretch is
 * another instance of the same rounding, in which equal numbers stay equal and the order of numbers stays.
 */
export function roundingTo(resultBits: number, factorBits: number, stretch: number): Rounding {
  const to = (bits: number) => (x: number) => {
    const y = x * stretch;
    if (y === 0 || !Number.isFinite(y)) return x;
    // Veltkamp's splitting: what is left of y above its last 53 - bits bits, to nearest.
    const high = y * (2 ** (53 - bits) + 1);
    return Number.isFinite(high) ? (high - (high - y)) / stretch : x;
  };
  return { result: to(resultBits), factor: to(factorBits) };
}

/** The operands of a product; none for what adds, compares or moves. */
export function factorsOf(op: Op): readonly ValueId[] {
  switch (op.kind) {
    case "matmul":
    case "outer":
      return [op.lhs, op.rhs];
    case "solve":
      return [op.matrix, op.rhs];
    case "scan":
      return [op.q, ...op.writes.flatMap(({ k, v }) => [k, v])];
    case "scan-state":
      return op.writes.flatMap(({ k, v }) => [k, v]);
    case "delta":
      return op.writes.flatMap(({ k, v, erase }) => [k, v, ...(erase === null ? [] : [erase])]);
    default:
      return [];
  }
}

/** Does the op compute, rather than make up, move or select? */
export function rounds(op: Op): boolean {
  switch (op.kind) {
    case "map":
    case "reduce":
    case "matmul":
    case "outer":
    case "cumsum":
    case "causal":
    case "solve":
    case "scan":
    case "scan-state":
    case "delta":
      return true;
    default:
      return false;
  }
}

export function roundedArray({ shape, data }: NdArray, round: (x: number) => number): NdArray {
  return { shape, data: data.map(round) };
}
