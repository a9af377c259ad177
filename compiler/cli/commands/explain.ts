/** laspc explain: what was derived and what it costs; or a diagnostic's page. */
import type { FormSpec, KernelSpec, Manifest, TensorSpec } from "../../../runtime/plan.ts";
import { elementBytes, elementsOf } from "../../../runtime/dtype.ts";
import { wgslTarget } from "../../../codegen/wgsl/target.ts";
import { pageOf } from "../../support/catalogue.ts";
import { Report } from "../../support/pass.ts";
import type { Program } from "../../tensor/ir.ts";
import { ChunkDecay } from "../../tensor/chunk-decay.ts";
import { byLevel } from "../../tensor/levels.ts";
import type { State } from "../../tensor/passes/shard.ts";
import { rightProduct } from "../../tensor/passes/right-product.ts";
import { simplify } from "../../tensor/passes/simplify.ts";
import { Arguments, UserError } from "../arguments.ts";
import { compileFile, readSource } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["entry", "dim", "dtype", "cache-states"], "explain");
  const subject = args.file("explain");
  if (!subject.endsWith(".lasp")) {
    const page = pageOf(subject);
    if (page === null)
      throw new UserError(`\`${subject}\` is neither a .lasp file nor a diagnostic's code`);
    process.stdout.write(page);
    return 0;
  }
  const source = await readSource(subject);
  const dims = args.dims();
  const tokens = dims["T"] ?? null;
  const compileWith = (cacheStates: number | null) =>
    compileFile(source, args, [wgslTarget], { backward: true, cacheStates });
  const compiled = await compileWith(null);
  const line = (text = "") => process.stdout.write(`${text}\n`);
  const { manifest } = compiled;
  line(`${manifest.name}, from ${manifest.source}`);
  line();
  line("derivation");
  for (const note of compiled.notes) line(`  ${note.pass}: ${note.message}`);
  if (tokens !== null) for (const why of leftProducts(compiled.program, tokens)) line(`  ${why}`);
  for (const state of compiled.sharded.states)
    for (const text of stateLines(state, manifest)) line(text);
  for (const text of roundLines(compiled.sharded.states)) line(text);
  line();
  line("forms");
  for (const form of manifest.forms.filter(({ name }) => name !== "definition")) {
    const names = (list: readonly TensorSpec[]) => list.map(({ name }) => name).join(", ");
    line(`  ${form.name}: ${names(form.inputs)} -> ${names(form.outputs)}`);
  }
  line();
  line("kernels, and the bytes each moves for a token and head when every tensor passes once");
  for (const { form, kernels, workspaces } of explainedForms(manifest)) {
    const spec = manifest.forms.find(({ name }) => name === form)!;
    for (const kernel of kernels) {
      const moved = movedBy(kernel, spec, workspaces);
      const names = moved.map(({ name }) => name).join(", ");
      line(`  ${kernel.entry}: ${rounded(bytesOf(moved))} bytes (${names})`);
    }
    for (const work of workspaces) {
      line(
        `    keeps ${work.name} between its kernels: ${bytesPerToken(work)} bytes a token and head`,
      );
    }
  }
  if (manifest.states.some(({ causal }) => causal)) {
    line();
    line("what the forward keeps for the backward (--cache-states), for a token and head");
    const chosen = args.cacheStates() ?? 256;
    for (const every of new Set([null, 64, chosen, 4 * chosen])) {
      line(`  ${cacheLine(every, (await compileWith(every)).manifest)}`);
    }
  }
  return 0;
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
