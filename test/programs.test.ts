/** A program on its whole way, as one page each: reviewed like source. `BLESS=1` writes them. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { wgslTarget } from "../codegen/wgsl/target.ts";
import { printPlan } from "../compiler/schedule/print.ts";
import { planOf } from "../compiler/schedule/index.ts";
import { printTensor } from "../compiler/tensor/print.ts";
import { printTile } from "../compiler/tile/print.ts";
import { compileExample, compileText, exampleNames, exampleSource } from "./support/examples.ts";

const folder = join(import.meta.dirname, "programs");

function pageOf(name: string): string {
  const seen = new Map<string, string>();
  const { files, manifest } = compileExample(name, {
    dims: { K: 32, V: 32 },
    targets: [wgslTarget, cudaTarget],
    watch: {
      tensor: (form) => (_, program) => seen.set(`tensor ${form ?? "scans"}`, printTensor(program)),
      tile: (form, target) => (_, program) =>
        seen.set(`tile ${form} ${target}`, printTile(program)),
    },
  });
  const source = exampleSource(name).text;
  const section = (title: string, language: string, text: string) =>
    `## ${title}\n\n\`\`\`${language}\n${text.trimEnd()}\n\`\`\`\n`;
  const emitted = (ending: string) =>
    files.get([...files.keys()].find((path) => path.endsWith(ending))!)!;
  const forward = manifest.targets
    .find(({ target }) => target === "wgsl")!
    .forms.find(({ form }) => form === "forward")!.kernels[0]!.entry;
  return [
    `# ${name}\n`,
    section("Source", "lasp", source),
    section("Tensor: scans", "", seen.get("tensor scans")!),
    section("Tensor: forward, fused", "", seen.get("tensor forward")!),
    section("Tile: forward for WGSL", "", seen.get("tile forward wgsl")!),
    section("Plan: two devices", "", printPlan(planOf(manifest, "ring", 2))),
    section("WGSL", "wgsl", emitted(`${forward}.wgsl`)),
    section("CUDA", "cuda", emitted(`${forward}.cu`)),
  ].join("\n");
}

describe("pages", () => {
  test.each(["retention", "simple-gla", "linear-attention-bidirectional"])("%s", (name) => {
    const path = join(folder, `${name}.md`);
    const page = pageOf(name);
    if (process.env["BLESS"]) writeFileSync(path, page);
    expect(existsSync(path), "missing: npm run bless").toBe(true);
    expect(readFileSync(path, "utf8")).toBe(page);
  });
});

describe("structure", () => {
  test.each(exampleNames)(
    "%s: one kernel a form; two where the output needs the whole sequence",
    (name) => {
      const { manifest } = compileExample(name, { targets: [wgslTarget] });
      const code = manifest.targets.find(({ target }) => target === "wgsl")!;
      for (const { form, kernels } of code.forms) {
        const whole = form === "forward" && name === "linear-attention-bidirectional";
        expect(kernels.length, form).toBe(whole ? 2 : 1);
      }
    },
  );

  test("both forms of one rule give the same kernel but for their names", () => {
    const body = (text: string) =>
      text
        .slice(text.indexOf("@compute"))
        .replace(/\/\/.*/g, "")
        .replace(/fn \w+/, "fn")
        .replace(/ +\n/g, "\n");
    const of = (rule: string) => compileBoth(rule).get("wgsl/rule_forward.wgsl")!;
    const product = of("return ((q @ k.T) * causal_decay(g)) @ v");
    const recurrence = of("recurrence S: [K, V] { S = exp(g) * S + outer(k, v) yield q @ S }");
    expect(body(recurrence)).toBe(body(product));
  });
});

function compileBoth(body: string) {
  const signature = "q: [T, K], k: [T, K], v: [T, V], g: [T] in (-inf, 0]";
  const text = `attention rule(${signature}) -> [T, V] { ${body} }`;
  return compileText(text, { targets: [wgslTarget] }).files;
}
