/** Pass goldens: before and after, as text; and every text reads back as itself. */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Pass, Report, runPasses } from "../../compiler/support/pass.ts";
import type { Program } from "../../compiler/tensor/ir.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { chunk } from "../../compiler/tensor/passes/chunk.ts";
import { differentiate } from "../../compiler/tensor/passes/differentiate.ts";
import { fuse } from "../../compiler/tensor/passes/fuse.ts";
import { gatherSums } from "../../compiler/tensor/passes/gather-sums.ts";
import { rightProduct } from "../../compiler/tensor/passes/right-product.ts";
import { canSegment, segmentForms } from "../../compiler/tensor/passes/segment.ts";
import { shard } from "../../compiler/tensor/passes/shard.ts";
import { split } from "../../compiler/tensor/passes/split.ts";
import { splitChain } from "../../compiler/tensor/passes/split-chain.ts";
import { simplify } from "../../compiler/tensor/passes/simplify.ts";
import { unstack } from "../../compiler/tensor/passes/unstack.ts";
import { printTensor } from "../../compiler/tensor/print.ts";
import { verifyTensor } from "../../compiler/tensor/verify.ts";
import { checkGolden, readGolden } from "../harness.ts";

const folder = join(import.meta.dirname, "passes");

function outputOf(program: Program, run: (report: Report) => Program): string {
  const report = new Report();
  const next = run(report);
  const notes = [
    ...report.notes.map(({ kind, message }) => `// ${kind}: ${message}\n`),
    ...report.limitations.map(({ code, message }) => `// ${code}: ${message}\n`),
  ];
  return `${notes.join("")}${next === program ? "(unchanged)\n" : printTensor(next)}`;
}

function runPass(text: string, pass: (tokens: number | null) => Pass<Program>): string {
  const program = parseTensor(text);
  verifyTensor(program, "golden");
  const tokens = /^\/\/ tokens: (\d+)$/m.exec(text)?.[1];
  const one = pass(tokens === undefined ? null : Number(tokens));
  return outputOf(program, (report) => runPasses([one], program, verifyTensor, report));
}

describe("goldens", () => {
  const passes = {
    simplify,
    chunk,
    fuse,
    differentiate,
    "gather-sums": gatherSums,
    split,
    "split-chain": splitChain,
    unstack,
  };
  for (const [name, pass] of Object.entries(passes)) {
    test(name, () => checkGolden(join(folder, `${name}.ir`), (text) => runPass(text, () => pass)));
  }
  test("right-product", () => {
    const path = join(folder, "right-product.ir");
    checkGolden(path, (text) => runPass(text, (tokens) => rightProduct({ tokens })));
  });
  test("shard", () =>
    checkGolden(join(folder, "shard.ir"), (text) => {
      const { states, forms } = shard(parseTensor(text));
      forms.forEach(({ program }) => verifyTensor(program, "shard"));
      const lines = states.map((s) => `// state ${s.name}: causal ${s.causal}, decay ${s.decay}\n`);
      return lines.join("") + forms.map((f) => `// ${f.name}\n${printTensor(f.program)}`).join("");
    }));

  test("segment", () =>
    checkGolden(join(folder, "segment.ir"), (text) => {
      const program = parseTensor(text);
      const { states } = shard(program);
      if (!canSegment(program, states)) return "// cannot be cut into segments\n";
      const forms = segmentForms(program, states, true);
      forms.forEach((form) => verifyTensor(form.program, "segment"));
      return forms.map((form) => `// ${form.name}\n${printTensor(form.program)}`).join("");
    }));

  test("each pass has its golden", () => {
    const files = readdirSync(folder).map((name) => name.replace(".ir", ""));
    const names = ["chunk", "differentiate", "fuse", "gather-sums", "right-product"];
    names.push("segment", "shard", "simplify", "split", "split-chain", "unstack");
    expect(files.sort()).toEqual(names);
    const source = readdirSync(join(import.meta.dirname, "../../compiler/tensor/passes"));
    expect(source.map((name) => name.replace(".ts", "")).sort()).toEqual(files.sort());
  });

  test("every program in a golden reads back as itself", () => {
    for (const file of readdirSync(folder)) {
      const text = readFileSync(join(folder, file), "utf8");
      const programs = text.split(/^(?=program )/m).slice(1);
      expect(programs.length).toBeGreaterThan(1);
      for (const one of programs) {
        const program = one.slice(0, one.indexOf("\n}\n") + 3);
        expect(printTensor(parseTensor(program))).toBe(program);
      }
    }
  });
});

test("a missing output fails", () => {
  expect(readGolden(join(folder, "simplify.ir")).every(({ output }) => output !== null)).toBe(true);
});
