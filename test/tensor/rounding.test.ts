/** Rounded interpretation: the rounding is that of the dtypes, and it is the results' and factors' only. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { ndArray } from "../../compiler/tensor/nd-array.ts";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { roundersOf } from "../../compiler/tensor/rounding.ts";
import { fromBits, toBits } from "../../runtime/dtype.ts";

test("to as many bits as float32 and bfloat16 have", () => {
  const { result, factor } = roundersOf({ resultBits: 24, factorBits: 8, stretch: 1 });
  // Within the range of both: what overflows or has no full fraction is not what rounding is asked about.
  const numbers = fc.double({ min: 1e-30, max: 1e30, noNaN: true });
  fc.assert(
    fc.property(numbers, fc.boolean(), (size, isNegative) => {
      const x = isNegative ? -size : size;
      expect(result(x)).toBe(Math.fround(x));
      const single = Math.fround(x);
      expect(factor(single)).toBe(fromBits("bf16", toBits("bf16", single)));
    }),
  );
  expect([0, -Infinity, NaN].map(result)).toEqual([0, -Infinity, NaN]);
});

test("stretched, it is as close and keeps the order", () => {
  fc.assert(
    fc.property(fc.double({ min: 1e-3, max: 1e3, noNaN: true }), (x) => {
      const { factor } = roundersOf({ resultBits: 24, factorBits: 8, stretch: 1.3 });
      expect(Math.abs(factor(x) - x)).toBeLessThanOrEqual(x * 2 ** -8);
      expect(factor(x * 1.01)).toBeGreaterThanOrEqual(factor(x));
    }),
  );
});

test("a product rounds its factors and its result, and leaves its inputs to others", () => {
  const program = parseTensor(`program p {
    %a: f32[2] = input {label = a, per = shared, dtype = f32}
    %b: f32[2] = input {label = b, per = shared, dtype = f32}
    %o: f32[2, 2] = outer %a, %b
    return o: shared f32 = %o, a: shared f32 = %a
  }`);
  const [a, b] = [Float64Array.of(1 + 2 ** -9, 1), Float64Array.of(3, 1 + 2 ** -30)];
  const inputs = new Map([
    ["a", ndArray([2], a)],
    ["b", ndArray([2], b)],
  ]);
  const found = interpretTensor(
    program,
    inputs,
    { T: 2 },
    { resultBits: 24, factorBits: 8, stretch: 1 },
  );
  expect([...found.values()].map(({ data }) => [...data])).toEqual([[3, 1, 3, 1], [...a]]);
  const exact = interpretTensor(program, inputs, { T: 2 });
  expect([...exact.values()][0]!.data[0]).toBe(3 * (1 + 2 ** -9));
});
