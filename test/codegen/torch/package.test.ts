/** Packages for PyTorch: what they look like, and that their own tests pass. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { Dtype } from "../../../compiler/tensor/ir.ts";
import { segmentLength } from "../../../runtime/segments.ts";
import { exampleNames, ruleNames, sizesOf } from "../../support/examples.ts";
import { python, runPython } from "../../support/python.ts";
import * as software from "../cuda/software/index.ts";
import { packageOf, writePackage } from "./packages.ts";

const folder = mkdtempSync(join(tmpdir(), "laspc-torch-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the text", () => {
  const files = packageOf("retention", "retention_pkg", { dims: { K: 64, V: 64 } });

  test.each(["api.py", "formula.py"])("retention's %s is the golden", (path) => {
    const golden = join(import.meta.dirname, `retention_${path}`);
    if (process.env["BLESS"]) writeFileSync(golden, files.get(path)!);
    expect(files.get(path)).toBe(readFileSync(golden, "utf8"));
  });

  test("the folder names the package, where Python can import it", () => {
    const named = (out: string) => packageOf("retention", out).get("pyproject.toml")!;
    expect(named("/tmp/retention_pkg/")).toContain('packages = ["retention_pkg"]');
    for (const out of ["out/2-retention", "out/class"])
      expect(() => named(out)).toThrow("is no name in Python");
  });

  test("every manifest speaks of forms that PyTorch calls, and of cuda, alone", () => {
    const manifest = JSON.parse(files.get("manifest.json")!) as {
      forms: { name: string }[];
      targets: { target: string }[];
    };
    expect(manifest.forms.map(({ name }) => name)).toEqual([
      "forward",
      "summary",
      "fold_S",
      "step",
      "backward",
      "summary_bwd",
      "exchange",
      "exchange_bwd",
    ]);
    expect(manifest.targets.map(({ target }) => target)).toEqual(["cuda"]);
  });

  test("every shipped attention and every rule becomes a package", () => {
    for (const name of [...exampleNames, ...ruleNames]) {
      expect(packageOf(name, "some_pkg").get("formula.py"), name).toContain("def backward(");
    }
  });
});

type Case = readonly [name: string, dtype: Dtype, K: number, V: number];

const cases: readonly Case[] = [
  ["retention", "f32", 16, 24],
  ["several-states", "bf16", 12, 8],
  ["kda", "f32", 8, 8],
  ["linear-attention-bidirectional", "f16", 8, 8],
  ["chained-delta", "f32", 8, 12],
  ["both-then-causal", "f32", 8, 8],
];
const others = exampleNames
  .filter((name) => !cases.some(([known]) => known === name))
  .map((name): Case => [name, "f32", 8, 8]);

/** Runs a folder or file of tests in the packages of the cases. */
function expectToPass(tests: string, list: readonly Case[], env: Record<string, string> = {}) {
  const folders = list.map(([name, dtype, K, V]) => {
    const own = join(folder, `${name.replaceAll("-", "_")}_${dtype}`);
    writePackage(own, packageOf(name, own, { dims: { K, V }, dtype }));
    return own;
  });
  const script = join(import.meta.dirname, "run_packages.py");
  const { status, output } = runPython([script, tests, ...folders], env);
  expect(status, output).toBe(0);
}

describe.skipIf(!python.available)(`in Python${python.why}`, () => {
  test("packages pass their own tests", () => expectToPass("tests", cases));

  test("the example of docs/pytorch.md runs", () => {
    const text = readFileSync(join(import.meta.dirname, "../../../docs/pytorch.md"), "utf8");
    const [, example] = /```python\n(.*?)```/s.exec(text)!;
    const own = join(folder, "retention_pkg");
    writePackage(own, packageOf("retention", own, { dims: { K: 64, V: 64 }, dtype: "bf16" }));
    const { status, output } = runPython(["-c", example!], { PYTHONPATH: folder });
    expect(status, output).toBe(0);
  });

  test("every other shipped attention has the right values and gradients", () =>
    expectToPass("tests/test_values.py", others));

  const onSoftware = (
    list: readonly Case[],
    env: Record<string, string> = {},
    tests = "tests/test_values.py",
  ) =>
    expectToPass(tests, list, {
      PYTHONPATH: import.meta.dirname,
      PYTEST_ADDOPTS: "-p software_gpu",
      SOFTWARE_CUDA: software.softwareLibraries().driver,
      LASPC_CACHE: join(folder, "cache"),
      ...env,
    });

  test.skipIf(!software.available)(`kernels have them too, run in software${software.why}`, () =>
    onSoftware([
      ["retention", "bf16", 16, 24],
      ["kda", "bf16", 16, 16],
    ]),
  );

  test.skipIf(!software.available)(
    `kernels stay inside tensors, whatever cuts say${software.why}`,
    () => {
      const only = { PYTEST_ADDOPTS: "-p software_gpu -k wrong_cuts" };
      const list: readonly Case[] = [
        ["retention", "f32", 8, 8],
        ["gated-delta-net", "bf16", 16, 16],
      ];
      onSoftware(list, only, "tests/test_errors.py");
      onSoftware(
        [["simple-gla", "bf16", 32, 16]],
        { ...only, SOFTWARE_CUDA_SM90: "1" },
        "tests/test_errors.py",
      );
    },
  );

  test.skipIf(!software.available)(`and by Hopper's copy engine${software.why}`, () =>
    onSoftware([["simple-gla", "bf16", 32, 16]], { SOFTWARE_CUDA_SM90: "1" }),
  );

  test.skipIf(!software.available)(`and by blocks of columns that have shares${software.why}`, () =>
    onSoftware([["retention", "bf16", 192, 192]], {
      PYTEST_ADDOPTS: "-p software_gpu -k 'test_results_and_gradients and share'",
    }),
  );

  test.skipIf(!software.available)(`and by segments of sequences${software.why}`, () =>
    onSoftware(
      [
        ["lightning", "f32", 8, 8],
        ["delta-net", "f32", 8, 8],
      ],
      { SEGMENT: "32" },
    ),
  );

  /** What a rank launches while a package compares itself over groups of ranks. */
  const launchedByGroups = ([name, dtype, K, V]: Case, env: Record<string, string>) => {
    const own = join(folder, `${name.replaceAll("-", "_")}_${dtype}`);
    writePackage(own, packageOf(name, own, { dims: { K, V }, dtype }));
    const { status, output } = runPython(["-m", "software_gpu", own], {
      PYTHONPATH: import.meta.dirname,
      SOFTWARE_CUDA: software.softwareLibraries().driver,
      LASPC_CACHE: join(folder, "cache"),
      ...env,
    });
    expect(status, output).toBe(0);
    return output;
  };

  test.skipIf(!software.available)(
    `and over a group of ranks, each by segments${software.why}`,
    () => {
      const launched = launchedByGroups(["lightning", "f32", 8, 8], { SEGMENT: "32" });
      // Behind the summaries of the forward's segments the backward needs none of its own.
      expect(launched).toContain("exchange exchange forward summary_bwd exchange_bwd backward");
    },
  );

  test.skipIf(!software.available)(
    `over a group the intra-chunk values of delta rules serve all stages${software.why}`,
    () => {
      const launched = launchedByGroups(["kda", "bf16", 16, 16], {});
      const kernels = new Set([...launched.matchAll(/kda_\w+/g)].map(([entry]) => entry));
      for (const form of ["forward", "summary", "transition"]) {
        expect(kernels).toContain(`kda_${form}_2`);
        // The first kernel of each computes what the forward's gives.
        expect(kernels.has(`kda_${form}_1`)).toBe(form === "forward");
      }
    },
  );

  test("Python and the runtime cut sequences alike", () => {
    const shapes = [1, 2, 8].flatMap((B) =>
      [256, 1000, 8192, 65536].flatMap((T) => [4, 16, 64].map((H) => ({ B, T, H }))),
    );
    const work = { processors: 132, columns: 1, summaries: 2 };
    const expected = shapes.map((shape) => segmentLength(sizesOf(shape), work) ?? 0);
    const own = join(folder, "lightning_f32");
    writePackage(own, packageOf("lightning", own, { dims: { K: 8, V: 8 }, dtype: "f32" }));
    const code = [
      "import json, sys",
      "from lightning_f32.segments import Work, fastest_length",
      "from lightning_f32.signature import CallSizes",
      "size = lambda s: CallSizes(s['B'], s['T'], s['H'], s['T'], 0, False, {})",
      "print(json.dumps([fastest_length(size(s), Work(132, 1, 2)) for s in json.loads(sys.argv[1])]))",
    ].join("\n");
    const { output } = runPython(["-c", code, JSON.stringify(shapes)], { PYTHONPATH: folder });
    expect(JSON.parse(output.trim().split("\n").at(-1)!)).toEqual(expected);
  });
});
