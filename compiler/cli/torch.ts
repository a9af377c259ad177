/** `laspc compile --emit torch`: a Python package in the place of an artifact. */
import { basename, resolve } from "node:path";
import { pythonWords } from "../../codegen/torch/names.ts";
import { isStage, torchPackage } from "../../codegen/torch/package.ts";
import { type Compiled, notesOf } from "../index.ts";
import { toBackwardLoops, toFixedLoops, toGradientSummary, toLoops } from "../pipeline.ts";
import { Report } from "../support/pass.ts";
import type { Source } from "../support/span.ts";
import { toTokens } from "../tensor/tokens.ts";
import { toleranceOf } from "../tolerance.ts";
import { UsageError } from "./arguments.ts";

/** The files of the package that lies in `folder`, which gives it its name. */
export function torchFiles(
  source: Source,
  compiled: Compiled,
  folder: string,
): ReadonlyMap<string, string> {
  const { forms } = compiled.sharded;
  const { program } = forms.find(({ name }) => name === "forward")!;
  const inputs = compiled.manifest.inputs.map(({ dtype }) => dtype);
  const table = (prefix: string) => ({
    f32: toleranceOf(`${prefix}x`, "f32", inputs),
    f16: toleranceOf(`${prefix}x`, "f16", inputs),
    bf16: toleranceOf(`${prefix}x`, "bf16", inputs),
  });
  const forward = toLoops(program, new Report());
  const backward = toBackwardLoops(forward, new Report());
  const loops = new Map([
    ["forward", forward],
    ["backward", backward],
  ]);
  if (forms.some(({ name }) => name === "backward_fixed")) {
    loops.set("backward_fixed", toFixedLoops(backward, new Report()));
  }
  for (const form of forms.filter(({ name }) => isStage(name))) {
    loops.set(
      form.name,
      form.level !== undefined
        ? toGradientSummary(backward, compiled.sharded, form.level)
        : toLoops(form.program, new Report()),
    );
  }
  return torchPackage({
    manifest: compiled.manifest,
    files: compiled.files,
    packageName: packageName(folder),
    definition: source.text,
    loops,
    tokens: toTokens(program),
    noteOf: notesOf(source),
    tolerances: { outputs: table(""), gradients: table("d_") },
  });
}

/** The folder's own name, by which Python imports it; throws a UsageError if it cannot. */
export function packageName(folder: string): string {
  const name = basename(resolve(folder));
  if (/^[A-Za-z_]\w*$/.test(name) && !pythonWords.has(name)) return name;
  throw new UsageError(`--out names the package, and \`${name}\` is no name in Python`);
}
