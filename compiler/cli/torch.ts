/** `laspc compile --emit torch`: a Python package in the place of an artifact. */
import { basename, resolve } from "node:path";
import { torchPackage } from "../../codegen/torch/package.ts";
import { type Compiled, notesOf } from "../index.ts";
import { toBackwardLoops, toLoops } from "../pipeline.ts";
import { Report } from "../support/pass.ts";
import type { Source } from "../support/span.ts";
import { toTokens } from "../tensor/tokens.ts";
import { toleranceOf } from "../tolerance.ts";

/** The files of the package that lies in `folder`, which gives it its name. */
export function torchFiles(
  source: Source,
  compiled: Compiled,
  folder: string,
): ReadonlyMap<string, string> {
  const { program } = compiled.sharded.forms.find(({ name }) => name === "forward")!;
  const inputs = compiled.manifest.inputs.map(({ dtype }) => dtype);
  const table = (prefix: string) => ({
    f32: toleranceOf(`${prefix}x`, "f32", inputs),
    f16: toleranceOf(`${prefix}x`, "f16", inputs),
    bf16: toleranceOf(`${prefix}x`, "bf16", inputs),
  });
  const forward = toLoops(program, new Report());
  return torchPackage({
    manifest: compiled.manifest,
    files: compiled.files,
    packageName: packageName(folder),
    definition: source.text,
    loops: { forward, backward: toBackwardLoops(forward, new Report()) },
    tokens: toTokens(program),
    noteOf: notesOf(source),
    tolerances: { outputs: table(""), gradients: table("d_") },
  });
}

/** The folder's own name, made one that Python can import. */
function packageName(folder: string): string {
  return basename(resolve(folder))
    .replace(/[^A-Za-z0-9_]/g, "_")
    .replace(/^(?=\d)/, "_");
}
