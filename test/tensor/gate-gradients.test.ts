/** Gradients of gates in bf16: what two products of one block see of a factor cancels, so they must see the same. */
import { expect, test } from "vitest";
import { toBackwardLoops, toLoops } from "../../compiler/pipeline.ts";
import { Report } from "../../compiler/support/pass.ts";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import type { Input } from "../../compiler/tensor/ir.ts";
import { type NdArray, ndArray } from "../../compiler/tensor/nd-array.ts";
import { rmseRatio, tolerances } from "../../compiler/tolerance.ts";
import { fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import { compileExample } from "../support/examples.ts";

const sizes = { T: 64, chunk: 32 };
const [K, V] = [16, 16];

/** Numbers from -1 to 1 as bf16 has them; gates from -5 to 0. */
function arrayOf({ label, type }: Input, seed: number): NdArray {
  const sizeOf = { T: sizes.T, K, V } as const;
  const shape = type.shape.map((dim) => sizeOf[dim as keyof typeof sizeOf]);
  let state = seed;
  const numbers = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
    state = (state * 48271) % 2147483647;
    const unit = state / 2147483647;
    return label === "g" ? -5 * unit : 2 * unit - 1;
  });
  return ndArray(shape, Float64Array.from(toNumbers("bf16", fromNumbers("bf16", numbers))));
}

test.each([
  ["gla", "d_g"],
  ["hgrn2", "d_f"],
  ["bonus-read", "d_g"],
  ["erase-and-write", "d_g"],
  ["value-decay", "d_g"],
])("%s: rounding factors of products leaves %s its digits", (name, gradient) => {
  const compiled = compileExample(name, { dims: { K, V }, dtype: "bf16" });
  const { program } = compiled.sharded.forms.find((form) => form.name === "forward")!;
  const backward = toBackwardLoops(toLoops(program, new Report()), new Report());
  const given = backward.ops.filter((op): op is Input => op.kind === "input");
  const inputs = new Map(given.map((op, i) => [op.label, arrayOf(op, 7 + i)] as const));
  const rounding = { resultBits: 24, factorBits: 8, stretch: 1 };
  const exact = interpretTensor(backward, inputs, sizes).get(gradient)!;
  const rounded = interpretTensor(backward, inputs, sizes, rounding).get(gradient)!;
  expect(rmseRatio(exact.data, rounded.data)).toBeLessThan(tolerances.bf16);
});
