/** Which part of a tensor a rank holds, and what of it must move for the rank to hold another part. */
import type { Dtype, Layout, Manifest, Plan, TensorSpec } from "./plan.ts";
import { ownOf } from "./records.ts";

/** Of the whole sequence: sequences, tokens of each, heads, and the head counts of tensors that have others. */
export interface Sizes {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly heads?: Readonly<Record<string, number>>;
}

/** From, and up to but without. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** A part of a tensor: some tokens and some heads of all sequences. What has none of these has one. */
export interface Box {
  readonly tokens: Range;
  readonly heads: Range;
}

const elementBytes: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2 };

/** Part r of n: from floor(r size / n) to floor((r + 1) size / n). */
export function partOf(size: number, part: number, parts: number): Range {
  const cut = (r: number) => Number((BigInt(r) * BigInt(size)) / BigInt(parts));
  return { from: cut(part), to: cut(part + 1) };
}

/** Sizes of a rank's launches and buffers in a layout. */
export function sizesIn(layout: Layout, whole: Sizes, rank: number, ranks: number): Sizes {
  if (layout === "whole") return whole;
  if (layout !== "heads") {
    const { from, to } = partOf(whole.T, layout === "tokens" ? rank : layout, ranks);
    return { ...whole, T: to - from };
  }
  const heads = Object.entries(whole.heads ?? {}).map(([name, count]) => [name, count / ranks]);
  return { ...whole, H: whole.H / ranks, heads: Object.fromEntries(heads) };
}

/** Bytes of a tensor that has these sizes. */
export function tensorBytes(spec: TensorSpec, sizes: Sizes): number {
  return elementsPer(spec, sizes) * elementBytes[spec.dtype] * product(spec.dims);
}

function elementsPer(spec: TensorSpec, { B, T, H, heads }: Sizes): number {
  const own = ownOf(heads, spec.headsOf ?? spec.name) ?? H;
  switch (spec.per) {
    case "token":
      return B * T * own;
    case "head":
      return own;
    case "shared":
      return 1;
    case "state":
      return B * H;
    case "chunk":
      return B * Math.ceil(T / (spec.chunk ?? 1)) * H;
  }
}

/** Bytes of a part of it. */
export function boxBytes(spec: TensorSpec, { B }: Sizes, { tokens, heads }: Box): number {
  const sequences = spec.per === "head" ? 1 : B;
  const count = sequences * (tokens.to - tokens.from) * (heads.to - heads.from);
  return count * elementBytes[spec.dtype] * product(spec.dims);
}

/** What a rank holds of a tensor of tokens, heads or states in a layout; null: nothing. */
export function boxOf(
  spec: TensorSpec,
  layout: Layout,
  whole: Sizes,
  rank: number,
  ranks: number,
): Box | null {
  if (typeof layout === "number" && layout !== rank) return null;
  const all = (size: number) => ({ from: 0, to: size });
  const headCount = spec.per === "state" ? whole.H : countOf(spec, whole);
  const cutsTokens = layout === "tokens" || typeof layout === "number";
  const tokens = cutsTokens ? partOf(whole.T, rank, ranks) : all(whole.T);
  return {
    tokens: spec.per === "token" ? tokens : all(1),
    heads: layout === "heads" ? partOf(headCount, rank, ranks) : all(headCount),
  };
}

/** What `from` sends to `to`, or keeps where they are one; null: nothing. */
export function movedBox(
  spec: TensorSpec,
  move: { readonly from: Layout; readonly to: Layout },
  whole: Sizes,
  sender: number,
  receiver: number,
  ranks: number,
): Box | null {
  const needed = boxOf(spec, move.to, whole, receiver, ranks);
  const there = boxOf(spec, move.from, whole, receiver, ranks);
  const sent = boxOf(spec, move.from, whole, sender, ranks);
  if (needed === null || sent === null) return null;
  // Who has all it needs is sent nothing.
  if (sender !== receiver && there !== null && within(needed, there)) return null;
  const box = {
    tokens: common(needed.tokens, sent.tokens),
    heads: common(needed.heads, sent.heads),
  };
  const isEmpty = box.tokens.to <= box.tokens.from || box.heads.to <= box.heads.from;
  return isEmpty ? null : box;
}

/** Why a plan cannot run with so many heads, in words, or null. */
export function layoutProblem(
  plan: Plan["ranks"][number],
  manifest: Manifest,
  whole: Sizes,
  ranks: number,
): string | null {
  const divides = plan.steps.some((step) => step.kind === "launch" && step.layout === "heads");
  if (!divides) return null;
  for (const spec of manifest.inputs) {
    const count = spec.per === "token" || spec.per === "head" ? countOf(spec, whole) : whole.H;
    if (count % ranks !== 0) {
      return `${spec.name} has ${count} head${count === 1 ? "" : "s"}, which ${ranks} devices cannot share out evenly: this schedule computes whole heads; ring does not need to`;
    }
  }
  return null;
}

function countOf(spec: TensorSpec, { H, heads }: Sizes): number {
  return ownOf(heads, spec.headsOf ?? spec.name) ?? H;
}

function within(inner: Box, outer: Box): boolean {
  const inside = (a: Range, b: Range) => a.from >= b.from && a.to <= b.to;
  return inside(inner.tokens, outer.tokens) && inside(inner.heads, outer.heads);
}

function common(a: Range, b: Range): Range {
  return { from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) };
}

function product(sizes: readonly number[]): number {
  return sizes.reduce((all, size) => all * size, 1);
}

/** A tensor's own layout in a launch: states and heads have no tokens to be of. */
export function layoutFor({ per }: TensorSpec, layout: Layout): Layout {
  const hasTokens = per === "token" || per === "chunk";
  return hasTokens || layout === "heads" ? layout : "tokens";
}
