/** The papers of a generated package: README.md and pyproject.toml. */
import { codeBlock, codeSpan } from "../../compiler/support/text.ts";
import type { Manifest } from "../../runtime/plan.ts";
import { argumentNames, functionName, shapeText, stateText } from "./api.ts";

/** The oldest PyTorch whose `torch.library` the package uses. */
const oldestTorch = "2.6";

export function printProject(manifest: Manifest, packageName: string): string {
  return `[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "${packageName.replaceAll("_", "-")}"
version = "0.1.0"
description = "${manifest.name} for PyTorch, compiled by laspc"
requires-python = ">=3.10"
dependencies = ["torch>=${oldestTorch}"]

[project.optional-dependencies]
test = ["pytest"]

[tool.setuptools]
packages = ["${packageName}"]
package-dir = { "${packageName}" = "." }

[tool.setuptools.package-data]
"${packageName}" = ["manifest.json", "py.typed", "cuda/*.cu"]
`;
}

export interface ReadmeOptions {
  readonly manifest: Manifest;
  readonly packageName: string;
  readonly definition: string;
  readonly hasPositions: boolean;
}

export function printReadme(options: ReadmeOptions): string {
  const { manifest, packageName, definition, hasPositions } = options;
  const name = functionName(manifest);
  const names = argumentNames(manifest);
  const dims = Object.entries(manifest.dims).map(([dim, size]) => `${dim} = ${size}`);
  const rows = manifest.inputs.map((spec, i) => `| \`${names[i]}\` | ${shapeText(spec)} |`);
  const group =
    manifest.states.length === 0
      ? ""
      : `
With \`group=\` each process of a \`ProcessGroup\` calls with its own tokens of the sequence, in the order of their ranks;
\`schedule\` says how states travel. Gradients of inputs without tokens are then each rank's own part. The stages it is
made of, \`summary\`, \`fold\`, \`apply\`, \`summary_bwd\`, \`fold_bwd\` and \`apply_bwd\`, are exported for other schedules.
`;
  const outputs = manifest.outputs.map((spec) => spec.name);
  const results = outputs.length > 1 ? `(${outputs.join(", ")})` : outputs[0];
  const state =
    manifest.states.length === 0
      ? ""
      : `
\`initial_state\` and the final state are ${stateText(manifest)}; N is B, or the number of packed
sequences. A state is the one after its token: the final state of one call is the initial state of the next.
`;
  return `# ${packageName}

${manifest.name} for PyTorch, compiled by laspc from ${codeSpan(manifest.source)}.

${codeBlock(definition.trimEnd())}

## Use

The folder is the package: with the folder above it on Python's path, or after \`pip install\` of the folder,

\`\`\`python
from ${packageName} import ${name}

${results}, final_state = ${name}(${names.join(", ")}, output_final_state=True)
\`\`\`

| argument | shape and dtype |
|---|---|
${rows.join("\n")}

T, B and the heads may be any; H is the most heads of any input, and each input's heads divide H.
${dims.length > 0 ? `${dims.join(", ")} are fixed. ` : ""}Decays are natural logarithms.
${state}
\`cu_seqlens\` packs sequences of any lengths into one row (B = 1): sequence i is the tokens \`cu_seqlens[i]\` to
\`cu_seqlens[i + 1]\`.${
    hasPositions
      ? " `token_offset` says how many tokens came before these, for positions when a\nsequence is continued from its state."
      : ""
  }

Gradients flow to every input and to the initial state, with the final state's cotangent taken in. The function
works under \`torch.compile(fullgraph=True)\`, and \`torch.autocast\` changes nothing in it. There are no second
derivatives and no rule for \`torch.vmap\`. A wrong dtype is a TypeError, a wrong shape or device a ValueError.

On a GPU the kernels in \`cuda/\` run, on PyTorch's current stream and in its memory, without waiting for the GPU:
calls can be captured in CUDA graphs. The first call, which cannot, compiles them with the NVRTC that comes with
PyTorch (or \`LASPC_NVRTC\`) and keeps them in \`~/.cache/laspc\` (or \`LASPC_CACHE\`). On the CPU \`formula.py\` runs,
plain PyTorch printed from the definition.
${group}${
    manifest.segments
      ? `
A forward keeps what its gradients would compute again; without gradients nothing outlasts the call.
Few long sequences are cut into segments that the GPU computes side by side. Their length follows from the shape;
\`set_segment_length\` fixes it (\`"never"\`, or a number of tokens), and while \`torch.use_deterministic_algorithms\` is
on nothing is cut, so that a sequence's bits do not depend on the batch it is in.
`
      : ""
  }
## Tests

\`\`\`sh
pip install pytest
python -m pytest tests
\`\`\`

They compare outputs and gradients with \`tests/token_loop.py\`, the definition token by token in float64.
`;
}
