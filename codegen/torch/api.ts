/** The public file of a generated package: one typed function with everything a caller must know. */
import { TextWriter } from "../../compiler/support/text.ts";
import type { Manifest, TensorSpec } from "../../runtime/plan.ts";
import { modules } from "./files.ts";
import { docText, pythonName } from "./names.ts";

/** What the function takes beside the definition's own inputs. */
const extras = [
  "initial_state",
  "output_final_state",
  "cu_seqlens",
  "token_offset",
  "group",
  "schedule",
] as const;

/** What ranges of a sequence are computed with, as `package/stages.py` has it. */
export const stageNames = ["summary", "fold", "apply", "summary_bwd", "fold_bwd", "apply_bwd"];

/** Names that the package has already: `from .api import plain` would hide its module `plain`. */
const moduleNames = new Set(
  ["api.py", "formula.py", ...Object.keys(modules), ...stageNames].map((path) =>
    path.replace(".py", ""),
  ),
);

/** The definition's name as Python may call it. */
export function functionName(manifest: Manifest): string {
  return pythonName(manifest.name, moduleNames);
}

/** The names of the function's own inputs, in order. */
export function argumentNames(manifest: Manifest): string[] {
  const taken = new Set<string>([...extras, "GROUPED", "OPERATORS", functionName(manifest)]);
  return manifest.inputs.map(({ name }) => {
    const free = pythonName(name, taken);
    taken.add(free);
    return free;
  });
}

export interface ApiOptions {
  readonly manifest: Manifest;
  /** The text of the definition's file. */
  readonly definition: string;
  /** Does the formula speak of a token's place in its sequence? */
  readonly hasPositions: boolean;
}

export function printApi(options: ApiOptions): string {
  const { manifest, hasPositions } = options;
  const name = functionName(manifest);
  const inputs = argumentNames(manifest);
  const state = stateType(manifest);
  const hasState = manifest.states.length > 0;
  const writer = new TextWriter("    ");
  writer.line(`"""${manifest.name}, compiled by laspc from ${docText(manifest.source)}."""`).line();
  writer.line("from __future__ import annotations").line();
  if (manifest.states.length > 1) writer.line("from collections.abc import Mapping").line();
  if (hasState) writer.line("from typing import TYPE_CHECKING").line();
  writer.line("from torch import Tensor");
  writer
    .line()
    .line(`from .binding import ${hasState ? "GROUPED, " : ""}OPERATORS`)
    .line();
  if (hasState) {
    writer.line("if TYPE_CHECKING:");
    writer.indent(() => writer.line("from torch.distributed import ProcessGroup"));
    writer.line();
  }
  writer.line();
  writer.line(`def ${name}(`);
  writer.indent(() => {
    for (const input of inputs) writer.line(`${input}: Tensor,`);
    writer.line(`initial_state: ${state.takes} | None = None,`);
    writer.line("output_final_state: bool = False,");
    writer.line("cu_seqlens: Tensor | None = None,");
    if (hasPositions) writer.line("token_offset: int = 0,");
    if (hasState) {
      writer.line("group: ProcessGroup | None = None,");
      writer.line('schedule: str = "auto",');
    }
  });
  const several = manifest.outputs.length > 1;
  const outputs = several ? `tuple[${manifest.outputs.map(() => "Tensor").join(", ")}]` : "Tensor";
  writer.line(`) -> tuple[${outputs}, ${state.gives} | None]:`);
  writer.indent(() => {
    docString(writer, options, inputs);
    const own = `${inputs.join(", ")}${inputs.length === 1 ? "," : ""}`;
    const offset = hasPositions ? ", token_offset" : "";
    const given = `(${own}), initial_state, cu_seqlens`;
    if (hasState) {
      writer.line("if group is not None:");
      const call = `GROUPED(${given}, group, schedule${offset})`;
      writer.indent(() => writer.line(`outputs, states = ${call}`));
      writer.line("else:");
      writer.indent(() => writer.line(`outputs, states = OPERATORS(${given}${offset})`));
    } else writer.line(`outputs, states = OPERATORS(${given}${offset})`);
    const first = several
      ? `(${manifest.outputs.map((_, i) => `outputs[${i}]`).join(", ")})`
      : "outputs[0]";
    writer.line(`return ${first}, (${state.from} if output_final_state else None)`);
  });
  return writer.toString();
}

/** What one state, several or none are in Python. */
function stateType({ states }: Manifest): { takes: string; gives: string; from: string } {
  if (states.length === 1) return { takes: "Tensor", gives: "Tensor", from: "states[0]" };
  const entries = states.map(({ name }, i) => `"${name}": states[${i}]`);
  return {
    takes: "Mapping[str, Tensor]",
    gives: "dict[str, Tensor]",
    from: `{${entries.join(", ")}}`,
  };
}

function docString(
  writer: TextWriter,
  { manifest, definition, hasPositions }: ApiOptions,
  names: readonly string[],
): void {
  const { inputs, outputs, states, dims } = manifest;
  const sizes = Object.entries(dims).map(([name, size]) => `${name} = ${size}`);
  writer.line(`"""${headline(manifest, definition)}`).line();
  writer.line("The definition, for one sequence and one head:").line();
  writer.indent(() => {
    for (const line of docText(definition).trimEnd().split("\n")) writer.line(line.trimEnd());
  });
  writer.line();
  writer.line(
    `T, B and the heads may be any; H is the most heads of any input, and each input's heads divide H.`,
  );
  if (sizes.length > 0) writer.line(`${sizes.join(", ")} are fixed in this package.`);
  writer.line("Decays are natural logarithms. Sums and states are float32.").line();
  writer.line("Args:");
  writer.indent(() => {
    inputs.forEach((spec, i) => writer.line(`${names[i]}: ${shapeText(spec)}${rangeText(spec)}`));
    writer.line(`initial_state: ${stateText(manifest)}, the state before the first token; zero`);
    writer.line("    when it is not given. N is B, or the number of packed sequences.");
    writer.line("output_final_state: also return the state after the last token.");
    writer.line(
      "cu_seqlens: [N + 1], int32 or int64, on the inputs' device: N sequences of any lengths lie",
    );
    writer.line(
      "    one behind the other in one row (B = 1); sequence i is the tokens cu_seqlens[i] to",
    );
    writer.line(
      "    cu_seqlens[i + 1]. Begins with 0, never falls, ends with T. On a GPU its numbers are not",
    );
    writer.line(
      "    checked, since that would wait for it: kernels stay inside the tensors whatever they are.",
    );
    writer.line("    LASPC_CHECK_CUTS=1 in the environment checks them, and waits.");
    if (hasPositions) {
      writer.line(
        "token_offset: how many tokens of the sequence came before these, for positions when",
      );
      writer.line("    a sequence is continued from its state; has no part in packed sequences.");
    }
  });
  if (manifest.states.length > 0) writer.indent(() => groupText(writer));
  writer.line().line("Returns:");
  writer.indent(() => {
    const shapes = outputs.map((spec) => `${spec.name}: ${shapeText(spec)}`);
    writer.line(
      outputs.length > 1 ? `A tuple of the results (${shapes.join("; ")}),` : `${shapes[0]!},`,
    );
    writer.line(
      states.length === 0
        ? "and None or an empty dict: this attention has no state."
        : `and the final state like initial_state, or None without output_final_state.`,
    );
    writer.line("Gradients flow to every input and to the initial state, once; not twice.");
  });
  writer.line().line("Raises:");
  writer.indent(() => {
    writer.line("TypeError: an argument is not a tensor, or of another dtype than above.");
    writer.line("ValueError: shapes do not fit each other or what is above, or devices differ.");
  });
  writer.line(`"""`);
}

function groupText(writer: TextWriter): void {
  writer.line(
    "group: the processes that share out the sequence; each calls with its own tokens, in the",
  );
  writer.line(
    "    order of their ranks, as many as it has (or none). initial_state is given where the",
  );
  writer.line(
    "    sequence begins, rank 0 (for a state that runs backwards the last rank). The final state",
  );
  writer.line(
    "    is everywhere the one after that rank's tokens: on the last rank the whole sequence's.",
  );
  writer.line(
    "    With cu_seqlens every rank says where its part of each of the N sequences lies.",
  );
  writer.line(
    "    All ranks call, and all go backwards. Gradients of inputs without tokens are this rank's",
  );
  writer.line("    part: sum them over the group, as DDP does up to its division.");
  writer.line(
    'schedule: with a group, how states travel: "ring", from rank to rank; "allgather", all to',
  );
  writer.line('    all at once; "auto", all at once but for two ranks of a delta rule.');
}

/** The definition's first comment line, or its name. */
function headline({ name }: Manifest, definition: string): string {
  const comment = /^\s*\/\/\s*(.*)$/m.exec(definition)?.[1];
  return docText(comment ?? `The attention ${name}.`);
}

const axes = { token: ["B", "T", "heads"], head: ["heads"], shared: [], state: [], chunk: [] };
const dtypes = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const;

/** "[B, T, heads, K], bfloat16" */
export function shapeText({ per, dims, dimNames, dtype }: TensorSpec): string {
  const own = dims.map((size, i) => dimNames[i] ?? String(size));
  return `[${[...axes[per], ...own].join(", ")}], ${dtypes[dtype]}`;
}

function rangeText({ range }: TensorSpec): string {
  if (range === null) return "";
  const [open, close] = [range.lowOpen ? "(" : "[", range.highOpen ? ")" : "]"];
  const bound = (value: number) => String(value).replace("Infinity", "inf");
  return `, in ${open}${bound(range.low)}, ${bound(range.high)}${close}`;
}

/** "[N, H, 64, 64], float32" */
export function stateText({ states }: Manifest): string {
  const shapes = states.map(({ dims }) => `[${["N", "H", ...dims].join(", ")}]`);
  if (states.length === 0) return "no state";
  if (states.length === 1) return `${shapes[0]}, float32`;
  const entries = states.map(({ name }, i) => `"${name}": ${shapes[i]}`);
  return `a dict {${entries.join(", ")}} of float32`;
}
