/** laspc compile: writes an artifact that stands alone. */
import { join } from "node:path";
import type { Architecture } from "../../../codegen/cuda/target.ts";
import { artifactFiles } from "../../api/artifact-files.ts";
import type { Target } from "../../tile/target.ts";
import { Arguments, UsageError, UserError } from "../arguments.ts";
import { type TargetChoice, loadTarget, targetNames } from "../devices.ts";
import { compileFile, readSource, say, writeTogether } from "../files.ts";
import { packageName, torchFiles } from "../torch.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    ["entry", "target", "emit", "dim", "dtype", "arch", "devices", "cache-states", "out"],
    "compile",
  );
  const emit = args.choice("emit", ["artifact", "torch"], "artifact");
  const isPackage = emit !== "artifact";
  if (isPackage) checkPackageOptions(args);
  const ranks = args.integer("devices", 1, 1);
  const source = await readSource(args.file("compile"));
  const started = performance.now();
  const targets = isPackage ? "cuda" : args.text("target");
  const compiled = await compileFile(
    source,
    args,
    await chosenTargets(targets, args.architecture()),
    {
      backward: true,
      fixedShared: isPackage,
      cacheStates: args.cacheStates(),
    },
  );
  const folder = args.text("out") ?? `${compiled.manifest.name}${isPackage ? "_pkg" : ""}`;
  const files = isPackage ? torchFiles(source, compiled, folder) : artifactFiles(compiled, ranks);
  await writeTogether(new Map([...files].map(([path, text]) => [join(folder, path), text])));
  say(`compiled ${compiled.manifest.name} in ${(performance.now() - started).toFixed(0)} ms`);
  for (const note of compiled.notes) say(`  ${note.pass}: ${note.message}`);
  for (const path of files.keys()) process.stdout.write(`${join(folder, path)}\n`);
  return 0;
}

/** What has no part in a package is a mistake, not something to pass over. */
function checkPackageOptions(args: Arguments): void {
  if ((args.text("target") ?? "cuda") !== "cuda") {
    throw new UsageError("--emit torch has kernels for cuda; --target takes nothing else with it");
  }
  if (args.text("devices") !== null) {
    throw new UsageError("--emit torch runs on one device; --devices has no part in it");
  }
  if (args.text("cache-states") !== null) {
    throw new UsageError("--emit torch keeps no states; --cache-states has no part in it");
  }
  const folder = args.text("out");
  if (folder !== null) packageName(folder);
}

/** The named targets; without a name all that can be emitted here, saying which cannot. */
async function chosenTargets(text: string | null, architecture: Architecture): Promise<Target[]> {
  if (text !== null) {
    const names = text.split(",").map((name): TargetChoice => {
      const found = targetNames.find((known) => known === name);
      if (!found) {
        throw new UsageError(`--target is one of ${targetNames.join(", ")}, not \`${name}\``);
      }
      return found;
    });
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw new UsageError(`--target names ${twice} twice`);
    return Promise.all(names.map((name) => loadTarget(name, architecture)));
  }
  const targets: Target[] = [];
  for (const name of targetNames) {
    try {
      targets.push(await loadTarget(name, architecture));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      say(`  ${error.message}`);
    }
  }
  return targets;
}
