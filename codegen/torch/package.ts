/**
 * A Python package that stands alone: an attention as operators of PyTorch. Its own files are in
 * `package/`, real Python that is the same for every attention and driven by `manifest.json`; what differs
 * is printed here: the public function (`api.ts`), the plain form of the program (`print.ts`), and papers.
 */
import type { Op, Program } from "../../compiler/tensor/ir.ts";
import { allOps } from "../../compiler/tensor/ir.ts";
import type { FormSpec, Manifest } from "../../runtime/plan.ts";
import { functionName, printApi, stageNames } from "./api.ts";
import { tests, modules } from "./files.ts";
import { printFunction, printedImports } from "./print.ts";
import { printProject, printReadme } from "./readme.ts";

export interface PackageOptions {
  /** With the forms `forward` and `backward`, and kernels for cuda. */
  readonly manifest: Manifest;
  /** Texts of the artifact by path. */
  readonly files: ReadonlyMap<string, string>;
  /** The name it is imported by. */
  readonly packageName: string;
  /** The text of the definition's file. */
  readonly definition: string;
  /** The forms as chunk loops, for tensors on the CPU: forward, backward, and the stages of `isStage`. */
  readonly loops: ReadonlyMap<string, Program>;
  /** The forward token by token: what the package's tests compare with. */
  readonly tokens: Program;
  readonly noteOf: (op: Op) => string | null;
  /** RMS(reference - x) / RMS(reference) that its tests allow, by how values are stored. */
  readonly tolerances: Record<"outputs" | "gradients", Readonly<Record<string, number>>>;
}

const gradientText = "d_x is the gradient of a loss at x.";

/** The package's files by path. */
export function torchPackage(options: PackageOptions): Map<string, string> {
  const { loops, tokens, noteOf, definition, packageName } = options;
  const manifest = ownManifest(options.manifest, loops);
  const hasPositions = [...allOps(loops.get("forward")!.ops)].some(
    (op) => op.kind === "token-index",
  );
  const files = new Map<string, string>();
  const name = functionName(manifest);
  files.set("__init__.py", initText(manifest, name));
  files.set("api.py", printApi({ manifest, definition, hasPositions }));
  files.set(
    "formula.py",
    printModule(
      `${manifest.name} in plain PyTorch, chunk by chunk: what runs where there is no GPU.`,
      ".tensor_ops",
      [...loops].map(([form, program]) =>
        printFunction(program, {
          name: form,
          summary: form.startsWith("backward")
            ? `${resultsText(program)} ${gradientText}`
            : resultsText(program),
          noteOf,
        }),
      ),
    ),
  );
  for (const [path, text] of Object.entries(modules)) files.set(path, text);
  files.set("py.typed", "");
  for (const { forms } of manifest.targets) {
    for (const { file } of forms.flatMap(({ kernels }) => kernels)) {
      files.set(file, options.files.get(file)!);
    }
  }
  const summary = resultsText(tokens);
  files.set(
    "tests/token_loop.py",
    printModule(
      `${manifest.name} token by token: what the tests compare with, in float64.`,
      "package_under_test.tensor_ops",
      [printFunction(tokens, { name: "forward", summary, noteOf })],
    ),
  );
  for (const [path, text] of Object.entries(tests)) files.set(`tests/${path}`, text);
  files.set("tests/tolerances.json", `${JSON.stringify(options.tolerances, null, 2)}\n`);
  files.set("manifest.json", `${JSON.stringify(manifest, null, 2)}\n`);
  files.set("pyproject.toml", printProject(manifest, packageName));
  files.set("README.md", printReadme({ manifest, packageName, definition, hasPositions }));
  return files;
}

/** Is the form one that a group of processes exchanges states with? */
export function isStage(form: string): boolean {
  return /^(summary|transition|summary_bwd)(_level_\d+)?$|^fold(_bwd)?_/.test(form);
}

/** The manifest without what PyTorch does not call. */
function ownManifest(manifest: Manifest, loops: ReadonlyMap<string, Program>): Manifest {
  const launched = Object.values(manifest.segments ?? {}).flat();
  const used = [
    "forward",
    "backward",
    "backward_fixed",
    "step",
    ...launched.map(({ form }) => form),
  ];
  used.push(...manifest.forms.map(({ name }) => name).filter(isStage));
  const cuda = manifest.targets.filter(({ target }) => target === "cuda");
  return {
    ...manifest,
    forms: manifest.forms
      .filter(({ name }) => used.includes(name))
      .map((form) => ({ ...form, inputs: inputsOf(form, loops.get(form.name)) })),
    targets: cuda.map((target) => ({
      ...target,
      forms: target.forms.filter(({ form }) => used.includes(form)),
    })),
    plans: [],
  };
}

/** The inputs as a form's loops take them; the reference may read more of them. */
function inputsOf({ inputs }: FormSpec, loops: Program | undefined): FormSpec["inputs"] {
  if (!loops) return inputs;
  return loops.ops.flatMap((op) =>
    op.kind === "input" ? inputs.filter(({ name }) => name === op.label) : [],
  );
}

function initText(manifest: Manifest, name: string): string {
  const stages = manifest.states.length > 0 ? stageNames : [];
  const segments = manifest.segments ? ["set_segment_length"] : [];
  return `"""${manifest.name} for PyTorch, compiled by laspc; see README.md beside this file."""

from .api import ${name}
${stages.length > 0 ? `from .binding import ${stages.join(", ")}\n` : ""}${segments.map((one) => `from .segments import ${one}\n`).join("")}
__all__ = [${[name, ...stages, ...segments].map((one) => `"${one}"`).join(", ")}]
`;
}

/** "Gives o, final_S." */
function resultsText({ outputs }: Program): string {
  return `Gives ${outputs.map(({ label }) => label).join(", ")}.`;
}

/** Functions as a module that imports what they call. */
function printModule(title: string, helpers: string, functions: readonly string[]): string {
  const text = functions.join("\n\n");
  const uses = (word: string) => new RegExp(`\\b${word}\\b`).test(text.replace(/#.*$/gm, ""));
  const calls = printedImports.filter(uses);
  const lines = [`"""${title}"""`, "", "from __future__ import annotations", ""];
  if (uses("math")) lines.push("import math", "");
  lines.push("import torch", "from torch import Tensor");
  if (uses("functional")) lines.push("from torch.nn import functional");
  lines.push("", `from ${helpers} import ${calls.join(", ")}`, "", "");
  return `${lines.join("\n")}\n${text}`;
}
