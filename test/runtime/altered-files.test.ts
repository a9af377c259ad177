/** Files that were altered are refused or harmless; `scripts/fuzz-files.mjs` tries any number of them. */
import { expect, test } from "vitest";
import { fuzzFiles } from "../fuzz-files/fuzz.ts";

test("300 altered files", async () => {
  const { counts, problems } = await fuzzFiles(300, 1);
  expect(problems).toEqual([]);
  for (const { altered, refused } of Object.values(counts)) {
    expect(altered).toBe(60);
    expect(refused).toBeGreaterThan(20);
  }
});
