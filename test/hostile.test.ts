/** 500 hostile texts; `npm run fuzz:text` takes any number of others. */
import { expect, test } from "vitest";
import { nvccThere } from "./support/emitted.ts";
import { fuzzTexts } from "./support/fuzz-text.ts";

const why = nvccThere ? "" : " (CUDA is not read: nvcc is not installed)";

test(`500 hostile texts are refused at a place or compile to valid files${why}`, async () => {
  const found = await fuzzTexts({ first: 0, count: 500, compileEvery: 12, cuda: 2 });
  expect(found.problems).toEqual([]);
  expect(found.refused).toBeGreaterThan(100);
  expect(found.compiled).toBeGreaterThan(5);
  expect(found.mostBytes).toBeLessThan(2 ** 31);
});
