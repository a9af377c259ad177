/**
 * The one contract between compiler and runtime: the manifest of an artifact, and plans.
 * JSON, versioned, validated on load (`validate.ts`). Nothing here knows the compiler.
 */

export const schemaVersion = 1;

export type Dtype = "f32" | "f16" | "bf16";
export type TargetName = "reference" | "cpu" | "wgsl" | "cuda";

/** A product, such as ["B", "T", "H", 64]; names are run-time integers of the launch. */
export type Product = readonly (string | number)[];

/** ceil(product(of) / by), the size of one grid axis; `by` 1 for a plain product. */
export interface GridSize {
  readonly of: Product;
  readonly by: number;
}

/**
 * How a tensor varies, which gives its whole shape:
 *   token  [B, T, heads, ...dims]   head  [heads, ...dims]   shared  [...dims]   state  [B, H, ...dims]
 *   chunk  [B, ceil(T / chunk), H, ...dims]
 */
export type Per = "token" | "head" | "shared" | "state" | "chunk";

export interface TensorSpec {
  readonly name: string;
  readonly per: Per;
  readonly dtype: Dtype;
  /** Dims after the ones `per` adds; sizes are fixed at compile time. */
  readonly dims: readonly number[];
  /** Their names in the definition, for messages: ["K"]. */
  readonly dimNames: readonly string[];
  /** What random inputs are drawn from and `--check-inputs` tests; null: any. */
  readonly range: { low: number; high: number; lowOpen: boolean; highOpen: boolean } | null;
  /** Tokens of a chunk, for what is stored per chunk. */
  readonly chunk?: number;
  /** The input whose heads it has, where that is not itself: a gradient's. */
  readonly headsOf?: string;
  /**
   * Of workspaces that hold what chunks of so many tokens give of inputs alone: those of one name and length hold the
   * same in all forms, and a kernel that writes nothing else need not run where they are known.
   */
  readonly intra?: number;
}

/**
 * One entry point of the artifact, the same on every target. Arguments are named tensors. An output with
 * fewer heads than H, or one per head or shared, is a sum: kernels write the share of each sequence and
 * head, [B, T, H, ...dims] or [B, H, ...dims], and the device adds those up.
 */
export interface FormSpec {
  readonly name: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

export interface BufferArg {
  readonly name: string;
  readonly access: "read" | "write";
  /**
   * Tensors of one dtype that share this buffer, one behind the other, each from a whole 4-byte word on;
   * the device copies them in or out. Without it the buffer is a tensor.
   */
  readonly parts?: readonly string[];
}

export interface KernelSpec {
  readonly entry: string;
  /** Path inside the artifact. */
  readonly file: string;
  /** Names of the form's tensors or workspaces, or `cu_seqlens`, in the order the entry takes them. */
  readonly buffers: readonly BufferArg[];
  /**
   * Of 16-bit buffers that the kernel copies tiles of by Hopper's copy engine: how many rows a tile has, of 64 columns a
   * part. The entry takes a map for each, in order, after the buffers: where the tensor lies (`devices/cuda-maps.ts`).
   */
  readonly maps?: readonly { readonly buffer: string; readonly rows: number }[];
  /** Run-time integers after the buffers and maps, in order: B, T, H, T_total, token_offset, packed, H_<name>. */
  readonly scalars: readonly string[];
  /** Flattened grid axes; the first is always B x H. */
  readonly grid: readonly GridSize[];
  /**
   * Of packed sequences the grid has in the place of the axes B x H and T one of H x (T / packedChunk + B): every chunk of
   * that many tokens, and one more for each sequence, in all heads.
   */
  readonly packedChunk?: number;
  readonly threads: number;
  readonly sharedBytes: number;
  /** Shared memory is given at launch; else the kernel declares it. */
  readonly dynamicShared?: boolean;
}

/** How one target runs one form: kernels in order, with workspaces between them. */
export interface FormCode {
  readonly form: string;
  readonly kernels: readonly KernelSpec[];
  readonly workspaces: readonly TensorSpec[];
  /**
   * Of which workspaces and outputs a head has several, one behind the other, and how many: kernels that compute a head in blocks of
   * columns write a share for each. Those of an output are added up, as are the shares of heads that share an input.
   */
  readonly shares?: Readonly<Record<string, number>>;
}

export interface TargetCode {
  readonly target: TargetName;
  /** Other files the target needs (an object, a header), inside the artifact. */
  readonly files: readonly string[];
  readonly forms: readonly FormCode[];
}

export interface Manifest {
  readonly schema: typeof schemaVersion;
  /** SHA-256 of the manifest as JSON without white space and without this field; on disk. */
  readonly digest?: string;
  /** SHA-256 of every other file of the artifact, by path; on disk. */
  readonly digests?: Readonly<Record<string, string>>;
  readonly name: string;
  /** Base name of the definition's file. */
  readonly source: string;
  /** Compile-time dims. */
  readonly dims: Readonly<Record<string, number>>;
  /** The attention's own inputs and outputs: the `forward` form without states. */
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** States, each with an input `initial_<name>` and an output `final_<name>`; [K, V] each. */
  readonly states: readonly StateSpec[];
  readonly forms: readonly FormSpec[];
  /** The definition counts tokens: their positions, or how many there are. */
  readonly positional: boolean;
  /** How a form is computed by segments of the sequence, where that is possible; by the form's name. */
  readonly segments?: Readonly<Record<string, readonly SegmentLaunch[]>>;
  readonly targets: readonly TargetCode[];
  readonly plans: readonly Plan[];
}

/**
 * One of the launches that together stand for a form. Over `segments`, each of them is a sequence; over
 * `sequences`, each segment is a token. `args`: the form's tensors that are called otherwise among all
 * launches; what none of the whole form's tensors is called lasts as long as they do.
 */
export interface SegmentLaunch {
  readonly form: string;
  readonly over: "segments" | "sequences";
  readonly args: Readonly<Record<string, string>>;
  /** Of the form those kernels alone that write intra-chunk values, which the launches behind it take then. */
  readonly part?: "intra";
  /** The forward's segments did the same: it is left out where what they gave is kept. */
  readonly again?: true;
}

export interface StateSpec {
  readonly name: string;
  readonly dims: readonly number[];
  /** false: no mask, every token reads the state of the whole sequence. */
  readonly causal: boolean;
  /** Runs from the last token to the first. */
  readonly reverse: boolean;
  /** Ranges compose through [K, K] matrices (delta rules): the form `transition` gives a range's. */
  readonly dense: boolean;
  /** Name of the summary's log-decay tensor, or null when ranges just add. */
  readonly logDecay: string | null;
  /** 0: it writes inputs only. n: what it writes comes from reads of states of level n - 1 and below. */
  readonly level: number;
}

/** The form that gives a tensor of an exchange: `summary_S`, `transition_S`, `d_summary_S`; null: none does. */
export function formGiving(manifest: Pick<Manifest, "forms">, output: string): FormSpec | null {
  const gives = ({ outputs }: FormSpec) => outputs.some(({ name }) => name === output);
  return manifest.forms.find(gives) ?? null;
}

/** The states of each level, from level 0 on: each level is a round of exchanges, after those before it. */
export function levelsOf<S extends Pick<StateSpec, "level">>(states: readonly S[]): S[][] {
  const levels: S[][] = [];
  for (const state of states) (levels[state.level] ??= []).push(state);
  return levels;
}

/**
 * Ranks along the sequence, times groups of them that share out the batch: rank = data group * seq + place. The
 * ranks of one sequence lie next to each other.
 */
export interface Mesh {
  readonly seq: number;
  readonly data: number;
}

/** A plan: what every rank does. Independent of T, B and H. */
export interface Plan {
  readonly name: string;
  readonly schedule: string;
  readonly mesh: Mesh;
  readonly ranks: readonly RankPlan[];
}

export interface RankPlan {
  readonly rank: number;
  readonly steps: readonly Step[];
}

/** Steps of one stream run in order; different streams may overlap. */
export const streams = ["compute", "transfer"] as const;

interface StepBase {
  /** Index in the rank's list. */
  readonly id: number;
  /** Steps of the same rank that must have finished. */
  readonly after: readonly number[];
  readonly stream: (typeof streams)[number];
}
/**
 * Which part of the sequence's tensors a rank has. Of tokens: `tokens` its own, of all heads; `heads` all tokens of its
 * share of the heads; `whole` all; a number those that this rank has as its own. Of heads and states, which have
 * no tokens: its share in `heads`, else all; with a number, nobody else has them.
 */
export type Layout = "tokens" | "heads" | "whole" | number;

/** A buffer of this rank; `zero`: filled with zeros, else undefined. */
export interface AllocStep extends StepBase {
  readonly kind: "alloc";
  readonly buffer: string;
  readonly spec: TensorSpec;
  readonly zero: boolean;
  /** Without it `tokens`. */
  readonly layout?: Layout;
}
/**
 * Block `index` of `of` of the rows of states, a row being one pair of a sequence and a head: of n rows those from
 * floor(index n / of) to floor((index + 1) n / of).
 */
export interface Part {
  readonly index: number;
  readonly of: number;
}
/** Runs a form; `args` maps the form's tensor names to buffers of this rank, all of them states with `part`. */
export interface LaunchStep extends StepBase {
  readonly kind: "launch";
  readonly form: string;
  readonly args: Readonly<Record<string, string>>;
  readonly part?: Part;
  /** Of all its tensors. */
  readonly layout?: Layout;
}
export interface SendStep extends StepBase {
  readonly kind: "send";
  readonly buffer: string;
  readonly to: number;
  readonly tag: number;
  readonly part?: Part;
}
export interface RecvStep extends StepBase {
  readonly kind: "recv";
  readonly buffer: string;
  readonly from: number;
  readonly tag: number;
  readonly part?: Part;
}
/** Every rank of the group gets what all have in `buffer`; its own stays: `into` names it too, by place in the group. */
export interface AllgatherStep extends StepBase {
  readonly kind: "allgather";
  readonly buffer: string;
  readonly into: readonly string[];
  readonly group: readonly number[];
  readonly tag: number;
}
/** `buffer` becomes the sum of the group's, in the order of its ranks and in float64, the same bits on all. */
export interface AllreduceStep extends StepBase {
  readonly kind: "allreduce";
  readonly buffer: string;
  readonly group: readonly number[];
  readonly tag: number;
}
/**
 * Moves a tensor to another layout; every rank of the plan takes part. `tokens` to `heads` is an all-to-all, `tokens` to
 * `whole` an all-gather. `buffer` is null on a rank that has none of it before, `into` on one that has none after.
 */
export interface ReshardStep extends StepBase {
  readonly kind: "reshard";
  readonly buffer: string | null;
  readonly into: string | null;
  readonly spec: TensorSpec;
  readonly from: Layout;
  readonly to: Layout;
  readonly tag: number;
}
export interface FreeStep extends StepBase {
  readonly kind: "free";
  readonly buffer: string;
}
export type Step =
  | AllocStep
  | LaunchStep
  | SendStep
  | RecvStep
  | AllgatherStep
  | AllreduceStep
  | ReshardStep
  | FreeStep;

/**
 * Buffers that exist before a plan starts, by name: the attention's inputs (token tensors cut to this
 * rank's tokens), `initial_<state>` where the state's chain begins, and with gradients the cotangents, `d_final_<state>`
 * where the chain ends. Buffers left when it ends: the outputs and gradients (`d_initial_<state>` where the chain begins),
 * and `final_<state>` where it ends.
 */
export const planContract = "inputs before, outputs and final states after";

/** What the form `backward` takes beside what `forward` takes and gives: the cotangents of its outputs. */
export function cotangentsOf(manifest: Manifest): readonly TensorSpec[] {
  const of = (name: string) => manifest.forms.find((form) => form.name === name);
  const forward = of("forward");
  const known = new Set(
    [...(forward?.inputs ?? []), ...(forward?.outputs ?? [])].map(({ name }) => name),
  );
  return (of("backward")?.inputs ?? []).filter(({ name }) => !known.has(name));
}

/** What ranks launch: the forms to load. */
export function formsOf(ranks: readonly RankPlan[]): string[] {
  const steps = ranks.flatMap((rank) => rank.steps);
  return [...new Set(steps.flatMap((step) => (step.kind === "launch" ? [step.form] : [])))];
}

export function worldSize({ seq, data }: Mesh): number {
  return seq * data;
}

/** The ranks that share this rank's sequences, in the order of their tokens. */
export function seqGroup({ seq }: Mesh, rank: number): number[] {
  const first = rank - (rank % seq);
  return Array.from({ length: seq }, (_, i) => first + i);
}

/** Does the state's chain begin (end) on this rank of its group? */
export function chainEnds({ reverse }: StateSpec, { seq }: Mesh, rank: number) {
  const place = rank % seq;
  const [first, last] = reverse ? [seq - 1, 0] : [0, seq - 1];
  return { begins: place === first, ends: place === last };
}
