/** What was derived of an attention and what it costs, as text. */
import type { FormSpec, KernelSpec, Manifest, TensorSpec } from "../../runtime/plan.ts";
import { elementBytes, elementsOf } from "../../runtime/dtype.ts";
import type { Compiled } from "../index.ts";
import { Report } from "../support/pass.ts";
import type { Program } from "../tensor/ir.ts";
import { ChunkDecay } from "../tensor/chunk-decay.ts";
import { byLevel } from "../tensor/levels.ts";
import type { State } from "../tensor/passes/shard.ts";
import { rightProduct } from "../tensor/passes/right-product.ts";
import { simplify } from "../tensor/passes/simplify.ts";

export interface Explained {
  /** For WGSL and with gradients. */
  readonly compiled: Compiled;
  /** The same, keeping the states of every so many tokens: for each of `cacheChoices`. */
  readonly keeping: ReadonlyMap<number, Compiled>;
  /** T, where products are to be weighed for it. */
  readonly tokens: number | null;
}

/** How many tokens apart states may be kept, to be told beside the one that was asked for. */
export function cacheChoices({ manifest }: Compiled, asked: number | null): readonly number[] {
  if (!manifest.states.some(({ causal }) => causal)) return [];
  const chosen = asked ?? 256;
  return [...new Set([64, chosen, 4 * chosen])];
}

/** The derivation, its forms and kernels, and what each moves. */
export function explanationOf({ compiled, keeping, tokens }: Explained): string {
  const { manifest } = compiled;
  const lines = [`${manifest.name}, from ${manifest.source}`, "", "derivation"];
  for (const note of compiled.notes) lines.push(`  ${note.pass}: ${note.message}`);
  if (tokens !== null) lines.push(...leftProducts(compiled.program, tokens).map((t) => `  ${t}`));
  lines.push(...compiled.sharded.states.flatMap((state) => stateLines(state, manifest)));
  lines.push(...roundLines(compiled.sharded.states), "", "forms", ...formLines(manifest));
  lines.push(
    "",
    "kernels, and the bytes each moves for a token and head when every tensor passes once",
  );
  lines.push(...kernelLines(manifest));
  if (keeping.size > 0) {
    lines.push(
      "",
      "what the forward keeps for the backward (--cache-states), for a token and head",
    );
    lines.push(`  ${cacheLine(null, manifest)}`);
    for (const [every, own] of keeping) lines.push(`  ${cacheLine(every, own.manifest)}`);
  }
  return `${lines.join("\n")}\n`;
}

function formLines(manifest: Manifest): string[] {
  const names = (list: readonly TensorSpec[]) => list.map(({ name }) => name).join(", ");
  return manifest.forms
    .filter(({ name }) => name !== "definition")
    .map(({ name, inputs, outputs }) => `  ${name}: ${names(inputs)} -> ${names(outputs)}`);
}

function kernelLines(manifest: Manifest): string[] {
  return explainedForms(manifest).flatMap(({ form, kernels, workspaces }) => {
    const spec = manifest.forms.find(({ name }) => name === form)!;
    const moves = kernels.map((kernel) => {
      const moved = movedBy(kernel, spec, workspaces);
      const names = moved.map(({ name }) => name).join(", ");
      return `  ${kernel.entry}: ${rounded(bytesOf(moved))} bytes (${names})`;
    });
    const keeps = workspaces.map((work) => {
      const bytes = bytesPerToken(work);
      return `    keeps ${work.name} between its kernels: ${bytes} bytes a token and head`;
    });
    return [...moves, ...keeps];
  });
}

/** Memory and time of keeping states every so many tokens. */
function cacheLine(every: number | null, manifest: Manifest): string {
  const spec = (form: string) => manifest.forms.find(({ name }) => name === form)!;
  const kept = bytesOf(spec("forward").outputs.filter(({ per }) => per === "chunk"));
  const moved = explainedForms(manifest)
    .filter(({ form }) => form === "forward" || form === "backward")
    .flatMap(({ form, kernels, workspaces }) =>
      kernels.flatMap((kernel) => movedBy(kernel, spec(form), workspaces)),
    );
  const choice = every === null ? "none" : `every=${every}`;
  const sweep =
    every === null
      ? "the backward's first sweep walks the whole sequence"
      : `pieces of ${every} tokens of it run side by side`;
  return `${choice}: ${rounded(kept)} bytes kept, ${rounded(bytesOf(moved))} moved forwards and backwards; ${sweep}`;
}

/** The tensors that a kernel reads and writes. */
function movedBy({ buffers }: KernelSpec, form: FormSpec, workspaces: readonly TensorSpec[]) {
  const names = buffers.flatMap(({ name, parts }) => parts ?? [name]);
  const known = [...form.inputs, ...form.outputs, ...workspaces];
  return known.filter(({ name }) => names.includes(name));
}

function bytesOf(tensors: readonly TensorSpec[]): number {
  return tensors.reduce((sum, tensor) => sum + bytesPerToken(tensor), 0);
}

function rounded(bytes: number): number {
  return Math.round(bytes * 10) / 10;
}

/** The chunk algorithm of a state's transition, its flops, and what crosses devices. */
function stateLines(state: State, manifest: Manifest): string[] {
  const [K, V] = manifest.states.find(({ name }) => name === state.name)!.dims as [number, number];
  const size = `H x ${K} x ${V} x 4 B = H x ${K * V * 4} bytes a batch row, whatever T`;
  const perChannel = state.decay === "key" || state.decay === "value";
  const C = perChannel ? ChunkDecay.longest : 64;
  const inputs = manifest.inputs.map(({ dtype }) => dtype);
  const isDelta = manifest.states.some(({ dense }) => dense);
  const near = ChunkDecay.nearFor(inputs, isDelta);
  const squares = Math.log2(C / near);
  const sizes = Array.from({ length: squares }, (_, n) => near * 2 ** n);
  const scores = perChannel ? squares + 1 : 1;
  const intra = 2 * C * (scores * K + V);
  const solve = state.dense ? 2 * C * (scores * K + V) + C * V : 0;
  const total = intra + 4 * K * V + solve + (state.dense ? 2 * K * V : 0);
  const diagonal = perChannel ? `diagonal over the ${state.decay} axis` : "scalar";
  const scale = state.decay === null ? "identity" : diagonal;
  const algorithm = [
    perChannel
      ? `scores in squares of ${sizes.join(", ")} tokens, decays split at their borders: every exponent <= 0` +
        (near > 1 ? `; in blocks of ${near} tokens decays from their start` : "")
      : "scores times one mask, a product with the values, a product with the state",
    ...(state.dense
      ? [
          "delta: (I - L) W = V + E S solved for each chunk in float32, L the erase vectors times the keys",
        ]
      : []),
  ];
  const range = state.dense
    ? "a chain passes the state itself on; M would be a [K, K] matrix"
    : state.decay === null
      ? "M = 1"
      : `M = exp(decay_${state.name}), ${state.decay === "scalar" ? "one number" : `${state.decay === "key" ? K : V} numbers`}`;
  return [
    "",
    `state ${state.name}: [${K}, ${V}] float32, ${state.causal ? "causal" : "no mask"}${state.reverse ? ", from the last token" : ""}`,
    `  transition: ${scale}${state.dense ? ", plus a low rank" : ""}`,
    ...algorithm.map((text) => `  chunks of ${C}: ${text}`),
    `  a range of tokens maps S_in to M S_in + S_ext; ${range}`,
    `  flops for each token and head, forward: ${total} (${intra} inside the chunk, the rest with the state)`,
    `  sent between neighbouring devices: ${size}`,
    ...(state.causal ? [] : ["  without a mask the whole state also travels back once"]),
  ];
}

/** How many exchanges between devices follow one another, and why; nothing where one is enough. */
function roundLines(states: readonly State[]): string[] {
  const levels = byLevel(states);
  if (levels.length < 2) return [];
  const why = ({ name, writesReadsOf }: State) =>
    writesReadsOf.length === 0
      ? `${name}, which writes inputs only`
      : `${name}, whose writes come from reads of ${writesReadsOf.join(", ")}`;
  return [
    "",
    `devices exchange states in ${levels.length} rounds, and cotangents in as many, the other way`,
    ...levels.map((own, level) => `  round ${level + 1}: ${own.map(why).join("; ")}`),
  ];
}

/** The kernels that are explained: those of the target that needs nothing installed. */
function explainedForms(manifest: Manifest) {
  return manifest.targets.find(({ target }) => target === "wgsl")?.forms ?? [];
}

/** Bytes of a tensor for each token and head; what a state or a number costs is spread over none. */
function bytesPerToken({ per, dims, dtype, chunk }: TensorSpec): number {
  const size = elementsOf(dims) * elementBytes(dtype);
  if (per === "chunk") return size / chunk!;
  return per === "token" ? size : 0;
}

/** Where, at this T, the left product would have been cheaper; kernels serve every T, so the right one stays. */
function leftProducts(program: Program, tokens: number): string[] {
  const report = new Report();
  rightProduct({ tokens }).run(simplify.run(program, report), report);
  return report.notes.flatMap(({ kind, message }) =>
    kind === "declined" ? [`right-product, for this T alone: ${message}`] : [],
  );
}
