/** Where tiles do not fit, sums of many terms are added up as their terms come, to the same numbers. */
import { expect, test } from "vitest";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { fromTensor } from "../../compiler/tile/from-tensor.ts";
import { interpretTile } from "../../compiler/tile/interpret.ts";
import type { TileProgram } from "../../compiler/tile/ir.ts";
import { printTile } from "../../compiler/tile/print.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";

// Terms: a vector for all tokens, one number for each token, products, and a sum that a later one reads.
const text = `program p {
  dims T = runtime, K = 16
  %x: f32[T, K] = input {label = x, per = token, dtype = f32}
  %y: f32[T, K] = input {label = y, per = token, dtype = f32}
  %g: f32[T] = input {label = g, per = token, dtype = f32}
  %b: f32[K] = input {label = b, per = shared, dtype = f32}
  chunks () {
    %x.2: f32[C, K] = rows %x
    %y.2: f32[C, K] = rows %y
    %g.2: f32[C] = rows %g
    %0: f32[K, C] = transpose %y.2
    %1: f32[C, C] = matmul %x.2, %0
    %2: f32[C, K] = matmul %1, %y.2
    %3: f32[C, K] = matmul %1, %x.2
    %4: f32[C, K] = mul %2, %y.2
    %5: f32[C, K] = mul %3, %x.2
    %6: f32[C, K] = add %4, %b
    %7: f32[C, K] = add %6, %5
    %8: f32[C, K] = add %7, %g.2
    %9: f32[C, K] = add %x.2, %2
    %10: f32[C, K] = add %9, %8
    %11: f32[C, K] = add %10, %3
    yield %11, %8
  } = %loop
  %o: f32[T, K] = result %loop {part = yield, index = 0}
  %s: f32[T, K] = result %loop {part = yield, index = 1}
  return o: token f32 = %o, s: token f32 = %s
}`;

function lowered(fitsAtOnce: boolean): TileProgram {
  let tried = 0;
  const limits = {
    threads: 256,
    alignRows: 16,
    alignCols: 16,
    sharedBytes: 0,
    tileRegisters: 1,
    chunks: [16],
    columnBlocks: [],
    narrowFactors: false,
    pressureOf: () => ({ most: fitsAtOnce || tried++ > 0 ? 0 : 2, sum: 0 }),
  };
  const { program } = fromTensor(parseTensor(text), { limits, name: "p", noteOf: () => null });
  verifyTile(program, "the test");
  return program;
}

function results(program: TileProgram): readonly number[] {
  const [T, K] = [40, 16];
  const numbers = (length: number, seed: number) =>
    Float64Array.from({ length }, (_, i) => Math.sin(7 * i + seed) / 4);
  const buffers = new Map([
    ["x", numbers(T * K, 1)],
    ["y", numbers(T * K, 2)],
    ["g", numbers(T, 3)],
    ["b", numbers(K, 4)],
    ["o", new Float64Array(T * K).fill(NaN)],
    ["s", new Float64Array(T * K).fill(NaN)],
  ]);
  interpretTile(program, buffers, { B: 1, T, H: 1, T_total: T, token_offset: 0, packed: 0 });
  return [...buffers.get("o")!, ...buffers.get("s")!];
}

test("terms that come of one product are added before the next one is computed", () => {
  const [atOnce, early] = [lowered(true), lowered(false)];
  // Between the two products of chunks both sums take what the first one gives.
  const between = (program: TileProgram) => {
    const lines = printTile(program).split("\n");
    const products = lines.flatMap((line, i) => (/mma .*@/.test(line) ? [i] : []));
    return lines.slice(products[1], products[2]).filter((line) => /= add\(/.test(line)).length;
  };
  expect(between(early)).toBeGreaterThan(between(atOnce));
});

test("the numbers are the same", () => {
  const [atOnce, early] = [results(lowered(true)), results(lowered(false))];
  expect(atOnce.every(Number.isFinite)).toBe(true);
  early.forEach((x, i) => expect(x).toBeCloseTo(atOnce[i]!, 12));
});
