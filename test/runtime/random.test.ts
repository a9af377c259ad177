/** Inputs drawn from a seed stay inside what is declared, and are what their name says. */
import { expect, test } from "vitest";
import type { TensorSpec } from "../../runtime/plan.ts";
import { draws, randomTensor } from "../../runtime/random.ts";

type Range = NonNullable<TensorSpec["range"]>;
const spec: TensorSpec = {
  name: "g",
  per: "token",
  dtype: "f32",
  dims: [3],
  dimNames: ["K"],
  range: null,
};
const shape = [2, 500, 2, 3];

const ranges: readonly Range[] = [
  { low: -Infinity, high: 0, lowOpen: true, highOpen: false },
  { low: -Infinity, high: 0, lowOpen: false, highOpen: false },
  { low: -5, high: 0, lowOpen: false, highOpen: true },
  { low: 0, high: 1, lowOpen: true, highOpen: false },
  { low: 0, high: 1, lowOpen: false, highOpen: false },
  { low: -1, high: 2, lowOpen: true, highOpen: true },
];

test.each(ranges)("%o holds what is drawn from it, in any dtype", (range) => {
  for (const draw of draws) {
    const { data } = randomTensor({ ...spec, range }, shape, 1, draw);
    for (const x of data) {
      expect(range.lowOpen ? x > range.low : x >= range.low).toBe(true);
      expect(range.highOpen ? x < range.high : x <= range.high).toBe(true);
    }
  }
});

test("gates are weak, zero, or of every strength side by side", () => {
  const range = ranges[1]!;
  const numbers = (draw: (typeof draws)[number]) =>
    [...randomTensor({ ...spec, range }, shape, 1, draw).data] as number[];
  expect(Math.min(...numbers("weak"))).toBeGreaterThan(-0.011);
  expect(numbers("zero").every((x) => x === 0)).toBe(true);
  const mixed = numbers("mixed").slice(0, 100);
  for (const [least, most] of [
    [0, 0],
    [-3, -0.1],
    [-100, -10],
    [-1e6, -1e4],
    [-Infinity, -Infinity],
  ] as const) {
    expect(mixed.some((x) => x >= least && x <= most)).toBe(true);
  }
});

test("constant inputs are the same for all tokens of a sequence", () => {
  const { data } = randomTensor(spec, shape, 1, "constant");
  for (let at = 0; at < data.length; at++) {
    const first = Math.floor(at / 3000) * 3000 + (at % 6);
    expect(data[at]).toBe(data[first]);
  }
  expect(data[0]).not.toBe(data[3000]);
});
