/** Where registers are short, a loop's results are written in the order in which tiles are held least. */
import { expect, test } from "vitest";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { fromTensor } from "../../compiler/tile/from-tensor.ts";
import type { Kernel } from "../../compiler/tile/ir.ts";
import { pressureOf } from "../../compiler/tile/pressure.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";

// The product %2 is read by the first result and the last, and the one between is made of another.
const text = (last: string) => `program p {
  dims T = runtime, K = 16
  %x: f32[T, K] = input {label = x, per = token, dtype = f32}
  %y: f32[T, K] = input {label = y, per = token, dtype = f32}
  chunks () {
    %x.2: f32[C, K] = rows %x
    %y.2: f32[C, K] = rows %y
    %0: f32[K, C] = transpose %y.2
    %1: f32[C, C] = matmul %x.2, %0
    %2: f32[C, K] = matmul %1, %y.2
    %3: f32[C, K] = matmul %1, %x.2
    %4: f32[C, K] = mul %2, %x.2
    %5: f32[C, K] = mul %3, %y.2
    %6: f32[C, K] = mul ${last}
    yield %4, %5, %6
  } = %loop
  %a: f32[T, K] = result %loop {part = yield, index = 0}
  %b: f32[T, K] = result %loop {part = yield, index = 1}
  %c: f32[T, K] = result %loop {part = yield, index = 2}
  return a: token f32 = %a, b: token f32 = %b, c: token f32 = %c
}`;

/** The results in the order in which they are stored, where a thread has so many registers for tiles. */
function stored(last: string, tileRegisters: number): readonly string[] {
  const limits = {
    threads: 256,
    alignRows: 16,
    alignCols: 16,
    sharedBytes: 0,
    tileRegisters,
    chunks: [16],
    columnBlocks: [],
    narrowFactors: false,
    pressureOf: (kernel: Kernel) => pressureOf(kernel, (rows, cols) => (rows * cols) / 256),
  };
  const { program } = fromTensor(parseTensor(text(last)), {
    limits,
    name: "p",
    noteOf: () => null,
  });
  verifyTile(program, "the test");
  return program.kernels[0]!.body.flatMap((stmt) =>
    stmt.kind === "store" ? [stmt.view.param] : [],
  );
}

test("what is made of one product is stored together", () => {
  expect(stored("%2, %y.2", 7)).toEqual(["a", "c", "b"]);
});

test("where nothing is won, or registers are many, the order is as written", () => {
  expect(stored("%3, %x.2", 7)).toEqual(["a", "b", "c"]);
  expect(stored("%2, %y.2", 100)).toEqual(["a", "b", "c"]);
});
