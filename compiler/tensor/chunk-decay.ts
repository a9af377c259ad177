/**
 * Decays inside a chunk: between two of its tokens, from its start, and to its end.
 *
 * One decay for the whole state goes into a mask:  P = (a b^T) * causal(g).
 *
 * With a decay for each channel, P[i, j] = sum over c of a[i, c] b[j, c] exp(g[j+1, c] + ... + g[i, c]),
 * the triangle j < i is cut into squares: with blocks of 1, 2, 4, ... tokens, a later block of a pair
 * meets the earlier one exactly once. For a square with its border between the blocks,
 *
 *   exp(g[j+1] + ... + g[i]) = exp(g[j+1] + ... + g[border]) exp(g[border+1] + ... + g[i])
 *
 * so its part of P is a product of two matrices, and both exponents are <= 0 whatever the decays. The sums are
 * cumulative sums that start anew at each block.
 *
 * The doubling goes down to single tokens, and the diagonal carries no decay at all: log2(C) products of the chunk's
 * size take the place of one, and a decay of 0 forgets exactly.
 *
 * In bf16 it ends at blocks of `near` tokens along the diagonal. In such a block both exponents are taken from its start,
 * so that no token depends on what comes after it: queries shrink and keys grow, by at most exp(near * deepest), where a
 * token decays by no more than exp(-deepest). Tokens that decay by more are taken to decay by that: less than rounding
 * leaves of anything. Half of the range is given to each side: queries are scaled up by its root and keys down. Then
 * log2(C / near) + 1 products are left. f16 has no room for such factors.
 *
 * A decay over the value axis scales what the scores are multiplied with in the same way.
 * Source: GLA's secondary chunking, arXiv 2312.06635, section 4.3, by doubling.
 */
import type { Span } from "../support/span.ts";
import type { TensorBuilder } from "./build.ts";
import { bounded } from "./log-decay.ts";
import { type DecayAxis, type Dtype, type SumDirection, type ValueId, chunkDim } from "./ir.ts";

export class ChunkDecay {
  /** Tokens of a chunk with a decay for each channel: each doubling costs one more product. */
  static readonly longest = 32;
  /**
   * The most that a token decays by in blocks of so many tokens, as a logarithm. Of 8: exp(-17) is less than float32 rounds
   * away, and exp(68) leaves room for queries and keys of up to 1e9. Of 16: exp(-9.5) is a twenty-fifth of what bf16
   * rounds away, and exp(76) leaves room for 1e5.
   */
  static deepestOf(near: number): number {
    return near > 8 ? 9.5 : 17;
  }

  /**
   * Tokens of the blocks in which decays are taken from the start, where inputs have these types; 1: of none. Where keys are
   * erased (`isDelta`), a gate's gradient is what is left of larger sums, whose roundings grow with the block.
   */
  static nearFor(inputs: readonly Dtype[], isDelta: boolean): number {
    if (!inputs.includes("bf16") || inputs.includes("f16")) return 1;
    return isDelta ? 8 : 16;
  }

  /** Log decay of each token: [C], [C, K] or [C, V]; or one for all of them; null without a decay. */
  private readonly each: ValueId | null;
  private readonly build: TensorBuilder;
  private readonly axis: DecayAxis;
  private readonly reverse: boolean;
  private readonly span: Span;
  private readonly longest: number;
  private readonly near: number;
  /** Factors up to and from the borders of blocks, by what they are. */
  private readonly factors = new Map<string, ValueId>();

  /**
   * `log`: the log decay outside of the loop, a scalar or per token; `build` stands in the loop.
   * `longest`: the most tokens a chunk may have, where that is bounded; `near`: as `nearFor` says.
   */
  constructor(
    build: TensorBuilder,
    log: ValueId | null,
    scan: { readonly axis: DecayAxis; readonly reverse: boolean; readonly span: Span },
    longest: number | null,
    near: number,
  ) {
    this.build = build;
    this.axis = scan.axis;
    this.reverse = scan.reverse;
    this.span = scan.span;
    this.longest = longest ?? ChunkDecay.longest;
    this.near = near;
    if (log === null) {
      this.each = null;
      return;
    }
    const perToken = build.shapeOf(log).length > 0;
    this.each = perToken
      ? build.add({ kind: "rows", arg: log }, { name: build.opOf(log)?.name ?? null })
      : bounded(build, log);
  }

  /** Is it one number for all tokens? Then sums of it are products with a count. */
  private get isConstant(): boolean {
    return this.each !== null && this.build.shapeOf(this.each).length === 0;
  }

  /**
   * Decayed and masked scores [C, C] of a and b ([C, K]): a[i] decays from token j to i; `strict`: to
   * i - 1, for j < i (null: no such pair in chunks of one token). Of a decay over the value axis the
   * scores hold only the mask; see `apply`.
   */
  pair(a: ValueId, b: ValueId, strict: boolean): ValueId | null {
    const { build, span } = this;
    if (strict && this.longest === 1) return null;
    const turned = (x: ValueId) => build.transpose(x, { span });
    if (this.axis !== "key") {
      const scores = build.matmul(a, turned(b), { span, name: "scores" });
      return build.mul(scores, this.causal(strict), { span, name: "masked" });
    }
    let sum: ValueId | null = null;
    for (let block = this.near; block < this.longest; block *= 2) {
      const rows = this.aroundBorders(a, b, block, strict);
      const scores = build.matmul(rows, turned(rows), { span, name: "scores" });
      sum = this.add(sum, build.mul(scores, this.square(block), { span }));
    }
    if (this.near > 1) {
      const late = this.factorOf(build.mul(a, this.fromStart(strict), { span }));
      const early = this.factorOf(build.mul(b, this.toStart(), { span }));
      const scores = build.matmul(late, turned(early), { span, name: "scores" });
      return this.add(sum, this.inTriangles(scores, strict));
    }
    if (strict) return sum!;
    const own = build.add(
      { kind: "reduce", fn: "sum", arg: build.mul(a, b, { span }), axis: 1 },
      { span },
    );
    return this.add(sum, build.mul(this.square(0), own, { span }));
  }

  /** Scores times values [C, V], with the decay of a value axis where there is one. */
  apply(scores: ValueId, v: ValueId, strict: boolean, name: string): ValueId {
    const { build, span } = this;
    if (this.axis !== "value") return build.matmul(scores, v, { span, name });
    let sum: ValueId | null = null;
    for (let block = this.near; block < this.longest; block *= 2) {
      const part = build.mul(scores, this.square(block), { span });
      // Decays of the other blocks are of tokens behind: what is no number there must not be a term, nor its product.
      const none = build.const(0);
      const [first, second] = this.reverse ? [none, null] : [null, none];
      const beside = (x: ValueId, atFirst: ValueId | null, atSecond: ValueId | null) =>
        build.map("select", [this.secondBlocks(block), atSecond ?? x, atFirst ?? x], { span });
      const values = beside(this.toBorder(v, block), first, second);
      const product = this.upFrom(build.matmul(part, values, { span }), block, strict);
      sum = this.add(sum, beside(product, second, first));
    }
    if (this.near > 1) {
      const part = this.inTriangles(scores, strict);
      const early = this.factorOf(build.mul(v, this.toStart(), { span }));
      const product = build.matmul(part, early, { span, name });
      return this.add(sum, build.mul(product, this.fromStart(strict), { span }));
    }
    if (strict) return sum!;
    const diagonal = build.mul(scores, this.square(0), { span });
    const own = build.add({ kind: "reduce", fn: "sum", arg: diagonal, axis: 1 }, { span });
    return this.add(sum, build.mul(v, own, { span }));
  }

  /** a[i] times the state before the chunk, decayed up to token i (`strict`: i - 1). */
  inter(a: ValueId, S: ValueId, strict: boolean): ValueId {
    const { build, span } = this;
    const reach = this.factor(`reach ${strict}`, () => {
      if (this.each === null) return null;
      const exponent = this.sums(this.reverse, strict, null, "log_decay_sum");
      return build.map("exp", [exponent], { span, name: "from_start" });
    });
    if (this.axis === "value") {
      const product = build.matmul(a, S, { span });
      return build.mul(product, reach!, { span, name: "inter" });
    }
    if (reach === null) return build.matmul(a, S, { span, name: "inter" });
    // Also where it is as well the product's: the decay's gradient then needs no product of its own.
    const name = `${build.opOf(a)?.name ?? "q"}_decayed`;
    return build.matmul(build.mul(a, reach, { span, name }), S, { span, name: "inter" });
  }

  /** Keys and values of the chunk, decayed from their token to its end. */
  toEnd(k: ValueId, v: ValueId): readonly [ValueId, ValueId] {
    const { build, span } = this;
    const rest = this.factor("rest", () => {
      if (this.each === null) return null;
      // What is still to come after a token, from suffix sums: total - sum would cancel.
      const exponent = this.sums(!this.reverse, true, null, "log_decay_rest");
      return build.map("exp", [exponent], { span, name: "to_end" });
    });
    if (rest === null) return [k, v];
    const decayed = (x: ValueId, other: string) =>
      build.mul(x, rest, { span, name: `${build.opOf(x)?.name ?? other}_decayed` });
    return this.axis === "value" ? [k, decayed(v, "v")] : [decayed(k, "k"), v];
  }

  /** The state before the chunk, decayed over all of it. */
  kept(S: ValueId): ValueId {
    const { build, span } = this;
    if (this.each === null) return S;
    const named = { span, name: "log_decay_total" };
    const total = this.isConstant
      ? build.mul(this.each, this.tokens(), named)
      : build.add({ kind: "reduce", fn: "sum", arg: this.each, axis: 0 }, named);
    return build.mul(S, build.map("exp", [total], { span, name: "chunk_decay" }), { span });
  }

  /** A factor of the product of blocks along the diagonal, for all that read it. Blocks of more than 4 are those of bf16. */
  private factorOf(x: ValueId): ValueId {
    const { build, span } = this;
    return this.near > 4 ? build.map("as_bf16", [x], { span, name: "scaled" }) : x;
  }

  private add(a: ValueId | null, b: ValueId): ValueId {
    return a === null ? b : this.build.map("add", [a, b], { span: this.span });
  }

  private factor(key: string, make: () => ValueId | null): ValueId | null {
    const known = this.factors.get(key);
    if (known !== undefined) return known;
    const made = make();
    if (made !== null) this.factors.set(key, made);
    return made;
  }

  private sums(
    reverse: boolean,
    exclusive: boolean,
    block: number | null,
    name: string | null,
  ): ValueId {
    const { build, span } = this;
    if (this.isConstant)
      return build.mul(this.steps(reverse, exclusive), this.each!, { span, name });
    const draft = { kind: "cumsum", arg: this.each!, reverse, exclusive, block } as const;
    return build.add(draft, { span, name });
  }

  /** How many tokens a sum runs over: those up to each, or (`reverse`) from each on. */
  private steps(reverse: boolean, exclusive: boolean): ValueId {
    const { build, span } = this;
    const row = build.add({ kind: "iota" }, { span }, { shape: [chunkDim] });
    const count = (fn: "add" | "sub", a: ValueId, b: ValueId) => build.map(fn, [a, b], { span });
    const one = build.const(1);
    if (!reverse) return exclusive ? row : count("add", row, one);
    const last = exclusive ? count("sub", this.tokens(), one) : this.tokens();
    // Rows behind the last token count none.
    return build.map("max", [count("sub", last, row), build.const(0)], { span });
  }

  private tokens(): ValueId {
    const { build, span } = this;
    return build.add({ kind: "dim-size", dim: chunkDim }, { span, name: "tokens_here" });
  }

  private causal(strict: boolean): ValueId {
    const { build, span, reverse } = this;
    const logDecay = this.axis === "scalar" ? this.each : null;
    return this.factor(`mask ${strict}`, () => {
      return build.add({ kind: "causal", logDecay, strict, reverse }, { span, name: "mask" });
    })!;
  }

  /** Of scores what is left along the diagonal: pairs within blocks of `near` tokens. Above it they may be infinite. */
  private inTriangles(scores: ValueId, strict: boolean): ValueId {
    const { build, span, near: block, reverse } = this;
    const mask = this.factor(`triangles ${strict}`, () =>
      build.add({ kind: "block-mask", block, reverse, within: { strict } }, { span }),
    )!;
    return build.map("select", [mask, scores, build.const(0)], { span });
  }

  /** The decay from the start of each token's block of `near` up to the token (`strict`: before it), moved up. */
  private fromStart(strict: boolean): ValueId {
    const { build, span } = this;
    const make = () => build.map("exp", [this.sumsFromStart(strict)], { span });
    return this.factor(`from start ${strict}`, make)!;
  }

  /** The decay from the start of its block up to each token undone, moved down. */
  private toStart(): ValueId {
    const { build, span } = this;
    return this.factor("to start", () => {
      const undone = build.map("neg", [this.sumsFromStart(false)], { span });
      return build.map("exp", [undone], { span });
    })!;
  }

  /** Log decays from the start of each block of `near` up to the token (`strict`: before it), bounded and moved up. */
  private sumsFromStart(exclusive: boolean): ValueId {
    const { build, span, reverse, near: block } = this;
    return this.factor(`sums from start ${exclusive}`, () => {
      const deepest = ChunkDecay.deepestOf(block);
      const make = () => build.map("max", [this.each!, build.const(-deepest)], { span });
      const arg = this.factor("bounded", make)!;
      const sums = build.add({ kind: "cumsum", arg, reverse, exclusive, block }, { span });
      return build.map("add", [sums, build.const((block * deepest) / 2)], { span });
    })!;
  }

  /** Sums in blocks of `block` tokens that lie in pairs: `later` in the one that comes later, `sooner` in the other. */
  private sumsBeside(
    each: ValueId,
    block: number,
    later: SumDirection,
    sooner: SumDirection,
  ): ValueId {
    const [own, earlier] = this.reverse ? [sooner, later] : [later, sooner];
    const draft = { kind: "cumsum", arg: each, ...own, block, earlier } as const;
    return this.build.add(draft, { span: this.span });
  }

  private square(block: number): ValueId {
    const { build, span } = this;
    const reverse = block > 0 && this.reverse;
    return this.factor(`square ${block}`, () =>
      build.add({ kind: "block-mask", block, reverse }, { span }),
    )!;
  }

  /**
   * What meets in the squares of one size: of the later block of each pair the rows of a, decayed from the border up
   * to their token (`strict`: before it), of the earlier one the rows of b, decayed from their token to the border.
   */
  private aroundBorders(a: ValueId, b: ValueId, block: number, strict: boolean): ValueId {
    const { build, span, reverse } = this;
    const isSecond = this.secondBlocks(block);
    const [second, first] = reverse ? [b, a] : [a, b];
    const rows = build.map("select", [isSecond, second, first], { span });
    if (block === 1 && strict) return rows;
    const decay = this.factor(`around ${block} ${strict}`, () => {
      const later = { reverse, exclusive: strict };
      const sooner = { reverse: !reverse, exclusive: true };
      const exponent = this.sumsBeside(this.each!, block, later, sooner);
      return build.map("exp", [exponent], { span });
    })!;
    return build.mul(rows, decay, { span });
  }

  /** 1 for the tokens of every second block, else 0: [C]. */
  private secondBlocks(block: number): ValueId {
    const { build, span } = this;
    return this.factor(`second ${block}`, () => {
      const row = build.add({ kind: "iota" }, { span }, { shape: [chunkDim] });
      const map = (fn: "mul" | "sub" | "floor", ...args: ValueId[]) =>
        build.map(fn, args, { span });
      const pair = map("floor", map("mul", row, build.const(1 / (2 * block))));
      const number = map("floor", map("mul", row, build.const(1 / block)));
      return map("sub", number, map("mul", pair, build.const(2)));
    })!;
  }

  /** x decayed from the border of its token's pair of blocks up to the token (`strict`: before it). */
  private upFrom(x: ValueId, block: number, strict: boolean): ValueId {
    const { build, span } = this;
    if (block === 1 && strict) return x;
    const decay = this.factor(`from ${block} ${strict}`, () => {
      const exponent = block === 1 ? this.each! : this.sums(this.reverse, strict, block, null);
      return build.map("exp", [exponent], { span });
    })!;
    return build.mul(x, decay, { span });
  }

  /** x decayed from its token to the border; with blocks of one the border is the token's own. */
  private toBorder(x: ValueId, block: number): ValueId {
    const { build, span } = this;
    if (block === 1) return x;
    const decay = this.factor(`to ${block}`, () => {
      return build.map("exp", [this.sums(!this.reverse, true, block, null)], { span });
    })!;
    return this.factor(`to ${block} ${x}`, () => build.mul(x, decay, { span }))!;
  }
}
