/** How tensors are cut over the ranks of a mesh, and put together again. */
import type { HostTensor, LaunchSizes } from "./device.ts";
import { elementsOf, newData } from "./dtype.ts";
import type { Manifest, Mesh, Per, TensorSpec } from "./plan.ts";
import { chainEnds, cotangentsOf } from "./plan.ts";

/** Part i of n of so many: from floor(i size / n) to floor((i + 1) size / n). */
export function cutOf(size: number, i: number, n: number): { from: number; to: number } {
  const cut = (at: number) => Number((BigInt(at) * BigInt(size)) / BigInt(n));
  return { from: cut(i), to: cut(i + 1) };
}

/** What of whole tensors [B, T, ...] a rank has: sequences, and tokens of them. */
interface Shard {
  readonly isPacked: boolean;
  readonly sequences: { readonly from: number; readonly to: number };
  /** Of packed sequences on their one axis. */
  readonly tokens: { readonly from: number; readonly to: number };
}

function shardOf({ B, T, cuSeqlens }: LaunchSizes, mesh: Mesh, rank: number): Shard {
  const sequences = cutOf(B, Math.floor(rank / mesh.seq), mesh.data);
  const [first, last] = cuSeqlens ? [cuSeqlens[sequences.from]!, cuSeqlens[sequences.to]!] : [0, T];
  const { from, to } = cutOf(last - first, rank % mesh.seq, mesh.seq);
  return {
    isPacked: cuSeqlens !== undefined,
    sequences,
    tokens: { from: first + from, to: first + to },
  };
}

/** The sizes of one rank's launches. Of a packed sequence that lies elsewhere a rank has no tokens. */
export function rankSizes(sizes: LaunchSizes, mesh: Mesh, rank: number): LaunchSizes {
  const { sequences, tokens } = shardOf(sizes, mesh, rank);
  const own = {
    ...sizes,
    B: sequences.to - sequences.from,
    T: tokens.to - tokens.from,
    token_offset: sizes.token_offset + tokens.from,
  };
  if (!sizes.cuSeqlens) return own;
  const cuts = sizes.cuSeqlens.slice(sequences.from, sequences.to + 1);
  const inside = (cut: number) => Math.min(Math.max(cut, tokens.from), tokens.to) - tokens.from;
  return { ...own, cuSeqlens: cuts.map(inside) };
}

export interface Whole {
  readonly manifest: Manifest;
  readonly mesh: Mesh;
  readonly sizes: LaunchSizes;
  /** Whole tensors: [B, T, heads, ...]. States not given start at zero. */
  readonly inputs: ReadonlyMap<string, HostTensor>;
}

/** The whole inputs, cut for one rank; first states and last cotangents only where the chain has its ends. */
export function rankInputs(whole: Whole, rank: number): Map<string, HostTensor> {
  const { manifest, inputs, sizes, mesh } = whole;
  const shard = shardOf(sizes, mesh, rank);
  const cut = new Map<string, HostTensor>();
  for (const spec of manifest.inputs) {
    const tensor = inputs.get(spec.name);
    if (!tensor) throw new Error(`input ${spec.name} is missing`);
    cut.set(spec.name, cutShard(tensor, spec.per, shard));
  }
  const elsewhere = new Set<string>();
  for (const state of manifest.states) {
    const { begins, ends } = chainEnds(state, mesh, rank);
    if (!ends) elsewhere.add(`d_final_${state.name}`);
    if (!begins) continue;
    const name = `initial_${state.name}`;
    const tensor = inputs.get(name) ?? zeros([sizes.B, sizes.H, ...state.dims]);
    cut.set(name, cutShard(tensor, "state", shard));
  }
  for (const { name, per } of cotangentsOf(manifest)) {
    const tensor = elsewhere.has(name) ? undefined : inputs.get(name);
    if (tensor) cut.set(name, cutShard(tensor, per, shard));
  }
  return cut;
}

function zeros(shape: readonly number[]): HostTensor {
  return { dtype: "f32", shape, data: newData("f32", elementsOf(shape)) };
}

function cutShard(tensor: HostTensor, per: Per, shard: Shard): HostTensor {
  const { isPacked, sequences, tokens } = shard;
  if (per !== "token" && per !== "state") return tensor;
  // Packed sequences lie in one row.
  const isRow = isPacked && per === "token";
  const rows = isRow ? tensor : cutAxis(tensor, 0, sequences.from, sequences.to);
  return per === "token" ? cutAxis(rows, 1, tokens.from, tokens.to) : rows;
}

/** Places [from, to) along an axis. */
export function cutAxis(tensor: HostTensor, axis: number, from: number, to: number): HostTensor {
  const { dtype, shape, data } = tensor;
  if (from === 0 && to === shape[axis]) return tensor;
  const outer = elementsOf(shape.slice(0, axis));
  const inner = elementsOf(shape.slice(axis + 1));
  const kept = newData(dtype, outer * (to - from) * inner);
  for (let i = 0; i < outer; i++) {
    const start = (i * shape[axis]! + from) * inner;
    kept.set(data.subarray(start, start + (to - from) * inner), i * (to - from) * inner);
  }
  return { dtype, shape: shape.map((size, i) => (i === axis ? to - from : size)), data: kept };
}

/** Tensors of one shape but for their length along an axis, one behind the other. */
export function joinAxis(tensors: readonly HostTensor[], axis: number): HostTensor {
  const [{ dtype, shape }] = tensors as [HostTensor];
  if (tensors.length === 1) return tensors[0]!;
  const size = tensors.reduce((sum, tensor) => sum + tensor.shape[axis]!, 0);
  const outer = elementsOf(shape.slice(0, axis));
  const inner = elementsOf(shape.slice(axis + 1));
  const data = newData(dtype, outer * size * inner);
  let at = 0;
  for (const tensor of tensors) {
    const width = tensor.shape[axis]! * inner;
    for (let i = 0; i < outer; i++) {
      data.set(tensor.data.subarray(i * width, (i + 1) * width), (i * size + at) * inner);
    }
    at += tensor.shape[axis]!;
  }
  return { dtype, shape: shape.map((own, i) => (i === axis ? size : own)), data };
}

/** Whole tensors from what every rank left: its part of them, or one copy of what all have. */
export function joinTensors(
  manifest: Manifest,
  mesh: Mesh,
  sizes: LaunchSizes,
  results: readonly ReadonlyMap<string, HostTensor>[],
): Map<string, HostTensor> {
  const specs = new Map<string, TensorSpec>(
    ["forward", "backward"]
      .flatMap((name) => manifest.forms.find((form) => form.name === name)?.outputs ?? [])
      .map((spec) => [spec.name, spec]),
  );
  const tensors = new Map<string, HostTensor>();
  for (const { name, per } of specs.values()) {
    // Tokens of each group of ranks side by side, then the groups' sequences.
    const groups: HostTensor[] = [];
    for (let first = 0; first < results.length; first += mesh.seq) {
      const parts = results
        .slice(first, first + mesh.seq)
        .flatMap((result) => result.get(name) ?? []);
      if (parts.length > 0) groups.push(per === "token" ? joinAxis(parts, 1) : parts[0]!);
    }
    if (groups.length === 0) continue;
    const isCut = per === "token" || per === "state";
    tensors.set(
      name,
      isCut ? joinAxis(groups, per === "token" && sizes.cuSeqlens ? 1 : 0) : groups[0]!,
    );
  }
  return tensors;
}
