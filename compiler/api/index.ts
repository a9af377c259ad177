/**
 * `laspc` as a library: text to diagnostics, artifacts, formatted text and explanations. It touches no file, no
 * process and no console, in Node and in browsers.
 *
 * A mistake of the text is a diagnostic. Each function throws a TypeError on an option that is not what its type
 * says, and CompilerBug where the compiler is wrong.
 */
import { type Architecture, cudaTargetFor } from "../../codegen/cuda/target.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { parseManifest } from "../../runtime/validate.ts";
import type { CheckedAttention } from "../check/check.ts";
import * as compiler from "../index.ts";
import { pageOf } from "../support/catalogue.ts";
import { hasErrors } from "../support/diagnostic.ts";
import type { Source } from "../support/span.ts";
import { formatSource } from "../syntax/format.ts";
import { parseSource } from "../syntax/parse.ts";
import type { Dim } from "../tensor/ir.ts";
import type { Target } from "../tile/target.ts";
import { artifactFiles } from "./artifact-files.ts";
import { resultOf, unnamed } from "./diagnostics.ts";
import { cacheChoices, explanationOf } from "./explanation.ts";
import { checkDims, checkOptions } from "./options.ts";
import type {
  Artifact,
  CheckOptions,
  CompileOptions,
  ExplainOptions,
  Result,
  Signature,
} from "./types.ts";

export type * from "./types.ts";
export { type RenderOptions, render } from "./diagnostics.ts";
export { CompilerBug } from "../support/never.ts";

/** The attentions of a text, and all of its mistakes. Dims may be open. */
export function check(text: string, options: CheckOptions = {}): Result<readonly Signature[]> {
  checkOptions("check", text, options);
  const { source, value, diagnostics } = checkedOf("check", text, options);
  const limitations = hasErrors(diagnostics)
    ? []
    : (value ?? []).flatMap((attention) => compiler.limitationsOf(attention));
  return resultOf(source, value?.map(signatureOf) ?? null, [...diagnostics, ...limitations]);
}

/** One attention of a text as an artifact. The sizes of its dims must be given, in the text or in `dims`. */
export function compile(text: string, options: CompileOptions = {}): Result<Artifact> {
  checkOptions("compile", text, options);
  const { source } = checkedOf("compile", text, options);
  const { targets = ["cuda", "wgsl"], architecture = "sm_90", devices = 1 } = options;
  const { value, diagnostics } = compiler.compile(source, {
    ...common(options),
    targets: targets.map((target) => targetOf(target, architecture)),
    backward: options.backward ?? true,
    cacheStates: options.cacheStates ?? null,
  });
  if (value === null) return resultOf<Artifact>(source, null, diagnostics);
  const files = artifactFiles(value, devices);
  const artifact: Artifact = {
    name: value.manifest.name,
    manifest: parseManifest(files.get("manifest.json")!),
    files,
    notes: value.notes.map(({ pass, message }) => `${pass}: ${message}`),
  };
  return resultOf(source, artifact, diagnostics);
}

/** The text in the one layout there is. */
export async function format(
  text: string,
  options: Pick<CheckOptions, "name"> = {},
): Promise<Result<string>> {
  checkOptions("format", text, options);
  const source = sourceOf(text, options);
  const { diagnostics } = parseSource(source);
  // What cannot be parsed is left as it is.
  const isWhole = diagnostics.length === 0;
  return resultOf(source, isWhole ? await formatSource(text) : null, diagnostics);
}

/** What was derived of an attention and what it costs, as text: forms, kernels, what each moves, what devices exchange. */
export function explain(text: string, options: ExplainOptions = {}): Result<string> {
  checkOptions("explain", text, options);
  const { source } = checkedOf("explain", text, options);
  const compileWith = (cacheStates: number | null) =>
    compiler.compile(source, {
      ...common(options),
      targets: [wgslTarget],
      backward: true,
      cacheStates,
    });
  const first = compileWith(null);
  if (first.value === null) return resultOf<string>(source, null, first.diagnostics);
  const compiled = first.value;
  const choices = cacheChoices(compiled, options.cacheStates ?? null);
  const keeping = new Map(choices.map((every) => [every, compileWith(every).value!]));
  const explanation = explanationOf({ compiled, keeping, tokens: options.tokens ?? null });
  return resultOf(source, explanation, first.diagnostics);
}

/** The page of a diagnostic's code, with an example; null where there is no such code. */
export function explainCode(code: string): string | null {
  return pageOf(code);
}

function sourceOf(text: string, { name = unnamed }: Pick<CheckOptions, "name">): Source {
  return { name, text };
}

function common({ dims = {}, dtype = "f32", entry }: CheckOptions & { entry?: string }) {
  return { dims, dtype, entry: entry ?? null };
}

/** Throws a TypeError on sizes of dims that a text without mistakes does not have. */
function checkedOf(call: "check" | "compile" | "explain", text: string, options: CheckOptions) {
  const source = sourceOf(text, options);
  const { dims, dtype } = common(options);
  const outcome = compiler.check(source, { dims, dtype });
  if (!hasErrors(outcome.diagnostics)) checkDims(call, outcome.value ?? [], dims);
  return { source, ...outcome };
}

function targetOf(
  target: NonNullable<CompileOptions["targets"]>[number],
  architecture: Architecture,
): Target {
  if (target === "wgsl") return wgslTarget;
  if (target === "cuda") return cudaTargetFor(architecture);
  // What is loaded is a whole target, of which callers see the name alone.
  return target as Target;
}

function signatureOf({ name, program }: CheckedAttention): Signature {
  const own = (shape: readonly Dim[]) => shape.filter((dim) => dim !== "T");
  const dims = [...program.dims].flatMap(([dim, size]) =>
    size === "runtime" ? [] : [[dim, size] as const],
  );
  return {
    name,
    dims: Object.fromEntries(dims),
    inputs: program.ops.flatMap((op) =>
      op.kind === "input"
        ? [{ name: op.label, dtype: op.dtype, per: op.per, dims: own(op.type.shape) }]
        : [],
    ),
    outputs: program.outputs.map(({ label, dtype, per, value }) => ({
      name: label,
      dtype,
      per,
      dims: own(program.ops.find(({ id }) => id === value)!.type.shape),
    })),
  };
}
