/** Generated packages for tests: made as the command line makes them, written where a test wants them. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import { torchFiles } from "../../../compiler/cli/torch.ts";
import type { CompileOptions } from "../../../compiler/index.ts";
import { compileText, exampleSource } from "../../support/examples.ts";

export function packageOf(
  name: string,
  folder: string,
  options: Partial<CompileOptions> = {},
): ReadonlyMap<string, string> {
  const source = exampleSource(name);
  const compiled = compileText(source.text, {
    dims: { K: 16, V: 24 },
    ...options,
    targets: [cudaTarget],
    backward: true,
  });
  const manifest = { ...compiled.manifest, source: source.name };
  return torchFiles(source, { ...compiled, manifest }, folder);
}

export function writePackage(folder: string, files: ReadonlyMap<string, string>): void {
  for (const [path, text] of files) {
    const place = join(folder, path);
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, text);
  }
}
