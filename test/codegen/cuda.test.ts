/** Every emitted CUDA file, given to nvcc: no warning, no spill, no local memory. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import type { Compiled } from "../../compiler/index.ts";
import { has } from "../support/devices.ts";
import { compileExample, exampleNames } from "../support/examples.ts";

const available = has("nvcc");
const why = available ? "" : " (skipped: nvcc is not installed)";

/** nvcc's messages for sources, as one file with a namespace for each, since they share helpers. */
async function nvcc(sources: readonly string[], archs: readonly string[]): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "laspc-nvcc-"));
  try {
    const file = join(folder, "all.cu");
    const parts = sources.map((text, i) => `namespace file_${i} {\n${text}}\n`);
    writeFileSync(file, parts.join("\n"));
    const code = archs.map((arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`);
    const options = ["-Werror", "all-warnings", "-Xptxas", "-v", "-fatbin", "-o", `${file}bin`];
    const { stderr } = await promisify(execFile)("nvcc", [...code, ...options, file]);
    return stderr;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Bytes that ptxas spills of each kernel of an artifact, for each architecture. */
async function spilledBy({ files }: Compiled, archs: readonly string[]): Promise<number[]> {
  const sources = [...files].filter(([path]) => path.endsWith(".cu")).map(([, text]) => text);
  expect(sources.length).toBeGreaterThan(0);
  const words = await nvcc(sources, archs);
  // Where accumulators are set between a fence and a product, ptxas has each product wait for the one before.
  expect(words).not.toContain("instructions are serialized");
  const spilled = [...words.matchAll(/(\d+) bytes spill stores/g)];
  expect(spilled.length).toBeGreaterThanOrEqual(archs.length * sources.length);
  return spilled.map(([, bytes]) => Number(bytes));
}

/** Bytes that ptxas may spill of a kernel, where it is not nothing: four words of addresses. */
const spills: Readonly<Record<string, number>> = { rwkv7: 16 };

describe.each([64, 128])("K = V = %d", (size) => {
  test.skipIf(!available).each(exampleNames)(
    `%s compiles for sm_80 and sm_90a${why}`,
    async (name) => {
      const dims = { K: size, V: size };
      const compiled = compileExample(name, { dims, targets: [cudaTarget] });
      for (const bytes of await spilledBy(compiled, ["80", "90a"])) {
        expect(bytes).toBeLessThanOrEqual(spills[name] ?? 0);
      }
    },
  );
});

// The kernels on tensor cores, of which those for gradients are the largest: bytes that any of them may spill.
test.skipIf(!available).each([
  ["retention", 0],
  ["simple-gla", 0],
  // Decays of channels from the start of a block cost six registers: docs/decisions/0028.
  ["gla", 24],
  ["delta-net", 0],
  ["gated-delta-net", 0],
  ["kda", 200],
  ["rwkv7", 450],
] as const)(`%s in bf16 compiles with its gradients${why}`, async (name, bound) => {
  const dims = { K: 128, V: 128 };
  const options = { dims, dtype: "bf16", targets: [cudaTarget], backward: true } as const;
  for (const bytes of await spilledBy(compileExample(name, options), ["90a"])) {
    expect(bytes).toBeLessThanOrEqual(bound);
  }
});

test.skipIf(!available)(
  `16-bit storage and sizes that divide nothing compile too${why}`,
  async () => {
    for (const dtype of ["f16", "bf16"] as const) {
      const dims = { K: 60, V: 100 };
      const { files } = compileExample("mamba2-ssd", { dims, dtype, targets: [cudaTarget] });
      const [, forward] = [...files].find(([path]) => path.endsWith("forward.cu"))!;
      expect(await nvcc([forward], ["80"])).toContain("registers");
    }
  },
);
