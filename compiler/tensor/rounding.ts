/**
 * What rounding does to a program, for who must tell a wrong number from one that cannot be right to more digits: the
 * interpreter with each result rounded as float32 arithmetic would, and the factors of products as their dtype would.
 */
import type { Op, ValueId } from "./ir.ts";
import type { NdArray } from "./nd-array.ts";

/** Plain numbers, so that a thread can be told of it. */
export interface Rounding {
  /** Significant bits of the result of an op. */
  readonly resultBits: number;
  /** The same of the factors of a product: rounding them is rounding its terms. */
  readonly factorBits: number;
  /**
   * Numbers are rounded on a grid so many times as wide: each stretch is another instance of the same rounding, in
   * which equal numbers stay equal and the order of numbers stays.
   */
  readonly stretch: number;
}

export interface Rounders {
  readonly result: (x: number) => number;
  readonly factor: (x: number) => number;
}

export function roundersOf({ resultBits, factorBits, stretch }: Rounding): Rounders {
  return { result: rounder(resultBits, stretch), factor: rounder(factorBits, stretch) };
}

function rounder(bits: number, stretch: number): (x: number) => number {
  // Every number of a program passes here: a power for each would take most of the time.
  const splitter = 2 ** (53 - bits) + 1;
  return (x) => {
    const y = x * stretch;
    if (y === 0 || !Number.isFinite(y)) return x;
    // Veltkamp's splitting: what is left of y above its last 53 - bits bits, to nearest.
    const high = y * splitter;
    return Number.isFinite(high) ? (high - (high - y)) / stretch : x;
  };
}

/** The operands of a product, and what is rounded like one; none for what adds, compares or moves. */
export function factorsOf(op: Op): readonly ValueId[] {
  switch (op.kind) {
    case "matmul":
    case "outer":
      return [op.lhs, op.rhs];
    case "solve":
      return [op.matrix, op.rhs];
    case "map":
      return op.fn === "as_bf16" ? op.args : [];
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
  const rounded = new Float64Array(data.length);
  for (let i = 0; i < data.length; i++) rounded[i] = round(data[i]!);
  return { shape, data: rounded };
}
