/** laspc compile: writes an artifact that stands alone. */
import { join } from "node:path";
import type { Manifest } from "../../../runtime/plan.ts";
import type { Architecture } from "../../../codegen/cuda/target.ts";
import { codeSpan } from "../../support/text.ts";
import type { Compiled } from "../../index.ts";
import { sealManifest } from "../../../runtime/seal.ts";
import { planOf } from "../../schedule/index.ts";
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

/** The artifact: kernels, plans for one device and for `ranks`, manifest. */
export function artifactFiles(compiled: Compiled, ranks: number): Map<string, string> {
  const plans = [...new Set([1, ranks])].map((n) => planOf(compiled.manifest, "ring", n));
  const manifest: Manifest = { ...compiled.manifest, plans };
  const files = new Map(compiled.files);
  for (const plan of plans)
    files.set(`plans/${plan.name}.json`, `${JSON.stringify(plan, null, 2)}\n`);
  files.set("README.md", readme(manifest));
  // The manifest last: a folder without it is not an artifact yet.
  files.set("manifest.json", sealManifest(manifest, files));
  return files;
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

/** How to call the artifact. */
function readme(manifest: Manifest): string {
  const shape = {
    token: "B, T, heads",
    state: "B, H",
    head: "heads",
    shared: "",
    chunk: "B, chunks, H",
  } as const;
  const row = (tensor: Manifest["inputs"][number]) => {
    const dims = [shape[tensor.per], ...tensor.dims].filter((part) => part !== "").join(", ");
    return `| ${tensor.name} | ${tensor.dtype} | [${dims}] |`;
  };
  const forms = manifest.forms.filter((form) => form.name !== "definition");
  const formLines = forms.map((form) => {
    const names = (list: readonly { name: string }[]) => list.map(({ name }) => name).join(", ");
    return `- \`${form.name}\`: ${names(form.inputs)} -> ${names(form.outputs)}`;
  });
  return `# ${manifest.name}

Compiled by laspc from ${codeSpan(manifest.source)}. \`manifest.json\` names every kernel, its arguments in order and its
grid; T, B and H are run-time sizes. Decays are natural logarithms; states are float32, [B, H, K, V], the
state after the range's last token.

| tensor | dtype | shape |
|---|---|---|
${[...manifest.inputs, ...manifest.outputs].map(row).join("\n")}

Forms, each an entry of the manifest:

${formLines.join("\n")}

Kernels over tokens also take \`cu_seqlens\` (int32) and the number \`packed\`: 0 with two zeros for ordinary batches; 1 for
packed sequences, sequence b from cu_seqlens[b] to cu_seqlens[b + 1] of one token axis, B the number of sequences. An output
that is one per head, shared, or has fewer heads than H is written as shares, [B, T, H, ...] or [B, H, ...], to be added up; of what a
form's \`shares\` names, as many for each head.

The sequence is cut over devices by the plans in \`plans/\`: each rank launches \`summary\`, folds it
onto what it receives, sends that, and launches \`forward\`.
`;
}
