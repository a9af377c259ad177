/** A whole kernel on the CPU: its numbers, its text, and the machines it compiles for. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { rmseRatio, tolerances } from "../../../compiler/tolerance.ts";
import { findDevice } from "../../support/devices.ts";
import { retentionInputs, retentionKernel, retentionLoops } from "./retention.ts";
import { artifactOf, oneSequence, runKernel } from "./run-kernel.ts";

const cpu = findDevice("cpu");

describe.runIf(cpu.available)(`retention on the cpu${cpu.why}`, () => {
  // "x86-64" has 16 registers of 4 floats and no multiply-add, "haswell" 16 of 8 with it.
  const machines = process.arch === "x64" ? ["native", "haswell", "x86-64"] : ["native"];
  test.each(machines)("code for %s, any number of tokens, grouped heads", async (machine) => {
    for (const T of [0, 1, 31, 32, 33, 100]) {
      const sizes = { B: 2, T, H: 4, groups: 2 };
      const inputs = retentionInputs(sizes);
      const launch = {
        ...oneSequence,
        ...sizes,
        T_total: T,
        heads: { q: 4, k: 2, v: 2, gamma: 2, o: 4 },
      };
      const got = await runKernel(retentionKernel(), { ...inputs }, launch, { cpu: machine });
      const want = retentionLoops(inputs, sizes);
      expect(rmseRatio(want.o, got.o!), `o, T = ${T}`).toBeLessThan(tolerances.f32);
      expect(rmseRatio(want.final_S, got.final_S!), `S, T = ${T}`).toBeLessThan(tolerances.f32);
    }
  });

  test("the number of threads changes no bit", async () => {
    const sizes = { B: 1, T: 70, H: 6, groups: 6 };
    const inputs = retentionInputs(sizes);
    const launch = { ...oneSequence, ...sizes, T_total: 70 };
    const run = (threads: number) =>
      runKernel(retentionKernel(), { ...inputs }, launch, { threads });
    const one = await run(1);
    for (const threads of [2, 5, 16]) expect(await run(threads)).toEqual(one);
  });

  test("the text says where it comes from, once for each line of source", async () => {
    const { files } = await artifactOf(retentionKernel());
    const text = files.get("cpu/retention.ll")!;
    const notes = text.split("\n").filter((line) => line.startsWith("; retention.lasp"));
    expect(notes).toEqual([
      "; retention.lasp:9  log(gamma)",
      "; retention.lasp:11  scores = q @ k.T",
      "; retention.lasp:12  scores @ v",
    ]);
    expect(text).toContain("; scratch + 0: q: f32[32, 64], 8192 B");
    expect(text.startsWith("; retention, from test.lasp, for the CPU\n")).toBe(true);
    expect((await artifactOf(retentionKernel())).files.get("cpu/retention.ll")).toBe(text);
  });

  test.each([
    ["x86_64-unknown-linux-gnu", "skylake-avx512"],
    ["x86_64-unknown-linux-gnu", "haswell"],
    ["x86_64-unknown-linux-gnu", "x86-64"],
    ["aarch64-unknown-linux-gnu", "generic"],
  ])(
    "compiles for %s %s, into multiply-adds on vectors without a call in between",
    async (triple, machine) => {
      const { assembly } = await compileFor(triple, machine);
      const calls = [...assembly.matchAll(/\b(?:callq?|bl)\s+\*?([\w.@]+)/g)].map(
        (found) => found[1],
      );
      expect(calls.filter((name) => !name?.startsWith("memset"))).toEqual([]);
      const [product] = {
        "skylake-avx512": [/vfmadd\w+ps.*%zmm/],
        haswell: [/vfmadd\w+ps.*%ymm/],
        "x86-64": [/mulps.*%xmm/],
        generic: [/fmla\s+v\d+\.4s/],
      }[machine]!;
      expect(assembly).toMatch(product!);
    },
  );
});

async function compileFor(triple: string, machine: string): Promise<{ assembly: string }> {
  const { files, manifest } = await artifactOf(retentionKernel());
  const { forms, files: shared } = manifest.targets[0]!;
  const sources = [
    ...forms.flatMap((form) => form.kernels.map((kernel) => kernel.file)),
    ...shared,
  ];
  const folder = mkdtempSync(join(tmpdir(), "laspc-test-"));
  const run = (tool: string, args: string[]): string => {
    for (const name of [`${tool}-14`, tool]) {
      const { status, stdout, stderr, error } = spawnSync(name, args, {
        cwd: folder,
        encoding: "utf8",
      });
      if (error) continue;
      if (status !== 0) throw new Error(`${tool}: ${stderr}`);
      return stdout;
    }
    throw new Error(`${tool} is not installed`);
  };
  try {
    const names = sources.map((path, i) => {
      writeFileSync(join(folder, `${i}.ll`), files.get(path)!);
      return `${i}.ll`;
    });
    const wide = machine === "skylake-avx512";
    const fact = `define linkonce_odr hidden i1 @laspc_has_wide_registers() alwaysinline { ret i1 ${wide} }`;
    writeFileSync(join(folder, "machine.ll"), fact);
    run("llvm-link", [...names, "machine.ll", "-o", "all.bc"]);
    run("opt", ["-O3", `-mtriple=${triple}`, `-mcpu=${machine}`, "all.bc", "-o", "fast.bc"]);
    const assembly = run("llc", [
      "-O3",
      `-mtriple=${triple}`,
      `-mcpu=${machine}`,
      "fast.bc",
      "-o",
      "-",
    ]);
    return { assembly };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
