/** Random rules as CUDA: executed in software against the reference, and given to nvcc. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import { has } from "../../support/devices.ts";
import {
  artifactOf,
  compare,
  compileText,
  randomInputs,
  ringForms,
  runRing,
  sizesOf,
} from "../../support/examples.ts";
import { type RandomRule, randomRule } from "../../fuzz/random-rule.ts";
import { available, backward, checkKernels, createSoftwareCuda, why } from "./software/index.ts";

const seed = 20261124;

const compileRule = ({ text, dims }: RandomRule) =>
  compileText(text, { dims, targets: [cudaTarget] });

test.skipIf(!available)(`kernels = reference, threads in either order${why}`, async () => {
  await fc.assert(
    fc.asyncProperty(randomRule, async (rule) => {
      const compiled = compileRule(rule);
      await checkKernels(compiled);
      const device = await createSoftwareCuda();
      await device.load(artifactOf(compiled), ringForms(compiled));
      const sizes = sizesOf({ T: rule.T * 5, H: 2, heads: { k: 1, v: 1 } });
      const inputs = randomInputs(compiled, sizes, { seed: rule.seed, initial: true });
      const run = () => runRing(compiled, [device, device], inputs, sizes);
      for (const result of [await run(), await backward(run)]) {
        const { ok, outputs } = await compare(compiled, inputs, sizes, result);
        expect(ok, JSON.stringify(outputs)).toBe(true);
      }
      await device.close();
    }),
    { numRuns: 20, seed },
  );
});

const nvccIsThere = has("nvcc");
test.skipIf(!nvccIsThere)(
  `nvcc warns of nothing${nvccIsThere ? "" : " (skipped: nvcc is not installed)"}`,
  () => {
    const folder = mkdtempSync(join(tmpdir(), "laspc-nvcc-"));
    try {
      const property = fc.property(randomRule, (rule) => {
        const { files } = compileRule(rule);
        // One file for all kernels of a rule; each in a namespace, since they share helpers.
        const sources = [...files].filter(([path]) => path.endsWith(".cu"));
        const parts = sources.map(([, text], i) => `namespace file_${i} {\n${text}}\n`);
        const file = join(folder, "rule.cu");
        writeFileSync(file, parts.join("\n"));
        const options = ["-arch=sm_80", "-cubin", "-Werror", "all-warnings", "-o", `${file}bin`];
        const { status, stderr } = spawnSync("nvcc", [...options, file], { encoding: "utf8" });
        expect(status, stderr).toBe(0);
      });
      fc.assert(property, { numRuns: 8, seed });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
