/** Every emitted CUDA file, given to nvcc: no warning, no spill, no local memory. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { has } from "../support/devices.ts";
import { compileExample, exampleNames } from "../support/examples.ts";

const available = has("nvcc");
const why = available ? "" : " (skipped: nvcc is not installed)";

/** nvcc's messages for one file and architecture. */
function nvcc(file: string, arch: string): Promise<string> {
  const options = [
    `-gencode=arch=compute_${arch},code=sm_${arch}`,
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v",
    "-cubin",
    "-o",
    `${file}.${arch}.cubin`,
    file,
  ];
  return new Promise((resolve, reject) => {
    const child = spawn("nvcc", options);
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (text += data));
    child.on("close", (code) => (code === 0 ? resolve(text) : reject(new Error(text))));
  });
}

/** Bytes that ptxas may spill of a kernel, where it is not nothing: four words of addresses. */
const spills: Readonly<Record<string, number>> = { rwkv7: 16 };

describe.each([64, 128])("K = V = %d", (size) => {
  test.skipIf(!available).each(exampleNames)(
    `%s compiles for sm_80 and sm_90a${why}`,
    async (name) => {
      const dims = { K: size, V: size };
      const { files } = compileExample(name, { dims, targets: [cudaTarget] });
      const folder = mkdtempSync(join(tmpdir(), "laspc-nvcc-"));
      try {
        const sources = [...files].filter(([path]) => path.endsWith(".cu"));
        expect(sources.length).toBeGreaterThan(0);
        for (const [path, text] of sources) {
          const file = join(folder, path.replaceAll("/", "_"));
          writeFileSync(file, text);
          const reports = await Promise.all([nvcc(file, "80"), nvcc(file, "90a")]);
          for (const report of reports) {
            const [, spilled] = /(\d+) bytes spill stores/.exec(report)!;
            expect(Number(spilled), path).toBeLessThanOrEqual(spills[name] ?? 0);
          }
        }
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
});

test.skipIf(!available)(
  `16-bit storage and sizes that divide nothing compile too${why}`,
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "laspc-nvcc-"));
    try {
      for (const dtype of ["f16", "bf16"] as const) {
        const dims = { K: 60, V: 100 };
        const { files } = compileExample("mamba2-ssd", { dims, dtype, targets: [cudaTarget] });
        for (const [path, text] of files) {
          if (!path.endsWith("forward.cu")) continue;
          const file = join(folder, `${dtype}.cu`);
          writeFileSync(file, text);
          expect(await nvcc(file, "80")).toContain("registers");
        }
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
