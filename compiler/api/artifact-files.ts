/** The files of an artifact beside its kernels: plans, how to call it, and the manifest. */
import type { Manifest } from "../../runtime/plan.ts";
import { sealManifest } from "../../runtime/seal.ts";
import type { Compiled } from "../index.ts";
import { planOf } from "../schedule/index.ts";
import { codeSpan } from "../support/text.ts";

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
