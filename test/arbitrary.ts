/**
 * Random well-typed tensor programs, op by op: what the language of the level allows, not only what
 * the compiler makes of attentions (that is `fuzz/grammar.ts`). A program grows from a list of
 * numbers: each step picks an op that fits the values made so far, so a shorter list is a smaller
 * program and a failing one shrinks.
 */
import fc from "fast-check";
import { TensorBuilder } from "../compiler/tensor/build.ts";
import {
  type Dim,
  type Output,
  type Program,
  type Range,
  type RegionKind,
  type ValueId,
  binaryFns,
  chunkDim,
  tokenDim,
  unaryFns,
} from "../compiler/tensor/ir.ts";
import { type NdArray, ndArray } from "../compiler/tensor/nd-array.ts";
import { type OpDraft, broadcastShape, sameShape } from "../compiler/tensor/types.ts";

/** Sizes that differ, so that a mixed-up axis shows; K is even for `rotate-half`. */
const sizes = { K: 4, V: 3 } as const;

/** Choices of one step: which op, which values, and the details. */
type Step = readonly [op: number, first: number, second: number, detail: number];

const names = ["q", "kv", "o_1", "S", null, null] as const;
const constants = [0, 1, -1, 0.1, 1e-30, -2.5e21, Infinity, -Infinity, NaN, -0] as const;
const ranges: readonly (Range | null)[] = [
  null,
  { low: -Infinity, high: 0, lowOpen: true, highOpen: false },
  { low: 0, high: 1, lowOpen: false, highOpen: true },
];

const step = fc.tuple(fc.nat(), fc.nat(), fc.nat(), fc.nat());

/** Programs over T (run time), K = 4 and V = 3; every op kind can occur. */
export const arbitraryProgram: fc.Arbitrary<Program> = fc
  .array(step, { minLength: 1, maxLength: 24 })
  .map((steps) => new Grower().grow(steps));

class Grower {
  private readonly build = new TensorBuilder(
    "random",
    new Map<string, number | "runtime" | null>([
      [tokenDim, "runtime"],
      ...Object.entries(sizes),
      ["unknown", null],
    ]),
  );
  /** Values in scope, in order. */
  private pool: ValueId[] = [];
  private spans = 0;

  grow(steps: readonly Step[]): Program {
    const inputs: [string, "token" | "head" | "shared" | "state", Dim[]][] = [
      ["q", "token", ["T", "K"]],
      ["v", "token", ["T", "V"]],
      ["g", "token", ["T"]],
      ["gamma", "head", []],
      ["weight", "shared", ["V"]],
      ["initial", "state", ["K", "V"]],
    ];
    inputs.forEach(([label, per, shape], i) => {
      const dtype = (["f32", "f16", "bf16"] as const)[i % 3]!;
      const range = ranges[i % ranges.length]!;
      const draft: OpDraft = { kind: "input", label, per, dtype, range };
      this.pool.push(this.build.add(draft, { name: label, span: this.span() }, { shape }));
    });
    for (const one of steps) this.take(one, null);
    return this.build.finish(this.outputs());
  }

  /** The last values that can be stored, and always one. */
  private outputs(): Output[] {
    const fitting = this.pool.filter((id) => {
      const shape = this.build.shapeOf(id);
      return shape[0] === tokenDim || !shape.includes(tokenDim);
    });
    return fitting.slice(-4).map((value, i) => {
      const per = this.build.shapeOf(value)[0] === tokenDim ? "token" : "state";
      return { label: `out_${i}`, value, dtype: i % 2 === 0 ? "f32" : "bf16", per };
    });
  }

  private span() {
    this.spans += 3;
    return { start: this.spans, end: this.spans + 2 };
  }

  private add(draft: OpDraft, detail: number, shape: readonly Dim[] | null = null): void {
    const origin = { name: names[detail % names.length]!, span: this.span() };
    this.pool.push(this.build.add(draft, origin, shape && { shape }));
  }

  /** The `pick`-th value for which `fits` holds, or null. */
  private find(pick: number, fits: (shape: readonly Dim[]) => boolean): ValueId | null {
    const fitting = this.pool.filter((id) => fits(this.build.shapeOf(id)));
    return fitting[pick % fitting.length] ?? null;
  }

  private take([op, first, second, detail]: Step, region: RegionKind | null): void {
    const inside = [this.pointwise, this.fold, this.product, this.leaf, this.shape] as const;
    const outside = [...inside, this.tokens, this.scan, this.loop] as const;
    const makers = region === null ? outside : inside;
    makers[op % makers.length]!.call(this, first, second, detail, region);
  }

  private pointwise(first: number, second: number, detail: number): void {
    const args = [first, second, detail].map((pick) => this.find(pick, () => true)!);
    const fns = [...unaryFns, ...binaryFns, "select" as const];
    const fn = fns[detail % fns.length]!;
    const wanted = (unaryFns as readonly string[]).includes(fn) ? 1 : fn === "select" ? 3 : 2;
    const used = args.slice(0, wanted);
    // Operands that do not broadcast: the first one serves for all.
    const broadcasts = broadcastShape(used.map((id) => this.build.shapeOf(id))) !== null;
    const fitting = broadcasts ? used : used.map(() => used[0]!);
    this.add({ kind: "map", fn, args: fitting }, detail);
  }

  private fold(first: number, second: number, detail: number): void {
    const arg = this.find(first, (shape) => shape.length > 0);
    if (arg === null) return;
    const axis = second % this.build.shapeOf(arg).length;
    this.add({ kind: "reduce", fn: detail % 2 === 0 ? "sum" : "max", arg, axis }, detail);
  }

  private product(first: number, second: number, detail: number): void {
    const lhs = this.find(first, (shape) => shape.length > 0);
    if (lhs === null) return;
    const inner = this.build.shapeOf(lhs).at(-1);
    const rhs = this.find(second, (shape) => shape.length > 0 && shape[0] === inner);
    if (rhs !== null) this.add({ kind: "matmul", lhs, rhs }, detail);
  }

  private leaf(first: number, second: number, detail: number, region: RegionKind | null): void {
    const shapes: readonly (readonly Dim[])[] = [[], ["K"], ["V", "K"], [2]];
    const tokens = region === "chunks" ? chunkDim : tokenDim;
    const value = constants[second % constants.length]!;
    const shape = shapes[second % shapes.length]!;
    if (first % 4 === 0) this.add({ kind: "const", value }, detail, shape);
    else if (first % 4 === 1) this.add({ kind: "iota" }, detail, [second % 2 === 0 ? "K" : 5]);
    else if (first % 4 === 2) {
      this.add({ kind: "dim-size", dim: ["K", "V", tokenDim][second % 3]! }, detail);
    } else if (detail % 5 === 0) {
      const block = [0, 1, 2, 4][second % 4]!;
      const within = block > 0 && first % 8 === 3 ? { within: { strict: detail % 3 === 0 } } : {};
      this.add({ kind: "block-mask", block, reverse: detail % 2 === 0, ...within }, detail);
    } else {
      const logDecay = this.find(second, (s) => s.length === 0 || sameShape(s, [tokens]));
      const [strict, reverse] = [detail % 2 === 0, first % 8 === 3];
      this.add({ kind: "causal", logDecay, strict, reverse }, detail);
    }
  }

  private shape(first: number, second: number, detail: number): void {
    const tile = this.find(second, (shape) => shape.length === 2);
    const even = this.find(second, (shape) => shape.at(-1) === "K" || shape.at(-1) === 2);
    const [lhs, rhs] = [first, second].map((pick) => this.find(pick, (s) => s.length === 1));
    const square = this.find(first, (shape) => shape.length === 2 && shape[0] === shape[1]);
    const rhs2 = square && this.find(second, (s) => s.length === 2 && s[0] === this.side(square));
    if (square && detail % 5 === 4) this.add({ kind: "invert", arg: square }, detail);
    else if (square && rhs2 && detail % 3 === 0) {
      const upper = detail % 2 === 0;
      this.add({ kind: "solve", matrix: square, rhs: rhs2, upper }, detail);
    } else if (first % 3 === 0 && tile) this.add({ kind: "transpose", arg: tile }, detail);
    else if (first % 3 === 1 && even) this.add({ kind: "rotate-half", arg: even }, detail);
    else if (lhs && rhs) this.add({ kind: "outer", lhs, rhs }, detail);
  }

  private side(square: ValueId): Dim {
    return this.build.shapeOf(square)[0]!;
  }

  private tokens(first: number, second: number, detail: number): void {
    if (first % 3 === 0) return this.add({ kind: "token-index" }, detail, [tokenDim]);
    const arg = this.find(second, (shape) => shape[0] === tokenDim)!;
    const block = second % 2 === 0 ? null : 2 ** (detail % 4);
    const sum = { reverse: first % 3 === 1, exclusive: second % 3 === 1 };
    // The other way in every other block.
    const isMixed = block !== null && detail % 3 === 0;
    const earlier = isMixed ? { reverse: !sum.reverse, exclusive: first % 2 === 0 } : null;
    this.add({ kind: "cumsum", arg, ...sum, block, ...(earlier && { earlier }) }, detail);
  }

  private scan(first: number, second: number, detail: number): void {
    const isMatrix = (shape: readonly Dim[]) => shape.length === 2 && shape[0] === tokenDim;
    const k = this.find(first, isMatrix)!;
    const v = this.find(second, isMatrix)!;
    const [key, value] = [this.build.shapeOf(k), this.build.shapeOf(v)];
    const q = this.find(detail, (shape) => sameShape(shape, key))!;
    const axis = (["none", "scalar", "key", "value"] as const)[detail % 4]!;
    const along = { none: [], scalar: [], key: [key[1]!], value: [value[1]!] }[axis];
    const wanted = [tokenDim, ...along];
    const logDecay = this.find(first, (s) => axis !== "none" && sameShape(s, wanted));
    const state = [key[1]!, value[1]!];
    const initial = first % 2 === 0 ? null : this.find(second, (shape) => sameShape(shape, state));
    const reverse = second % 2 === 0;
    const known = logDecay === null ? "none" : axis;
    const isFirst = (wanted: ValueId) => (shape: readonly Dim[]) =>
      sameShape(shape, this.build.shapeOf(wanted));
    const other = { k: this.find(detail, isFirst(k))!, v: this.find(first, isFirst(v))! };
    const writes = [{ k, v }, ...(detail % 5 < 2 ? [other] : [])];
    const common = { state: "S", writes, logDecay, initial, axis: known, reverse } as const;
    if (detail % 7 === 0 && known !== "value") {
      const scale = this.find(detail, (shape) => sameShape(shape, [tokenDim]));
      const couplings = scale !== null && writes.length > 1 ? [{ to: 1, from: 0, scale }] : [];
      const deltas = writes.map((write, i) => ({ ...write, erase: i % 2 === 0 ? q : null }));
      const index = writes.length - 1;
      return this.add({ kind: "delta", ...common, writes: deltas, couplings, index }, detail);
    }
    if (detail % 3 === 0) return this.add({ kind: "scan-state", ...common, every: null }, detail);
    const isFree = known === "none" && !reverse && first % 5 === 0;
    const read = !isFree && detail % 2 === 0 ? "before" : "after";
    this.add({ kind: "scan", q, ...common, read, causal: !isFree }, detail);
  }

  /** A recurrence or a chunk loop with one state and a few steps inside. */
  private loop(first: number, second: number, detail: number): void {
    const kind: RegionKind = first % 2 === 0 ? "recurrence" : "chunks";
    const stateShape = (second % 2 === 0 ? ["K", "V"] : ["V"]) as readonly Dim[];
    const init = detail % 2 === 0 ? null : this.find(second, (s) => sameShape(s, stateShape));
    const states = [{ name: "S", type: { shape: stateShape }, init }];
    const outer = this.pool;
    const origin = { span: this.span() };
    const body = ([S]: readonly ValueId[]) => {
      const rows = outer.filter((id) => this.build.shapeOf(id)[0] === tokenDim);
      this.pool = [...outer, S!];
      for (const arg of rows.slice(0, 3)) {
        // The rows of a [T, T] value have two token axes, one of them cut: nothing reads that.
        if (this.build.shapeOf(arg)[1] !== tokenDim) this.add({ kind: "rows", arg }, detail);
      }
      const window = this.pool.at(-1)!;
      for (let i = 0; i < 1 + (detail % 5); i++) {
        this.take([first + i * 7, second + i * 3, detail + i * 5, detail + i], kind);
      }
      const carry = this.find(detail, (shape) => sameShape(shape, stateShape))!;
      return { carries: [carry], yields: [this.yieldOf(kind, window, detail)] };
    };
    const owner = this.build.region(kind, states, first % 3 === 0, body, origin);
    this.pool = [...outer, ...owner.yields, ...owner.carries];
  }

  /** What a loop yields: something of the token or chunk, at worst the rows it read. */
  private yieldOf(kind: RegionKind, window: ValueId, pick: number): ValueId {
    const isYield = (shape: readonly Dim[]) =>
      kind === "chunks"
        ? shape[0] === chunkDim && shape[1] !== chunkDim
        : shape.length < 2 && !shape.includes(tokenDim);
    return this.find(pick, isYield) ?? window;
  }
}

/** Numbers for a random program's inputs: decays below 0, everything else around 0. */
export function inputsFor(program: Program, T: number): Map<string, NdArray> {
  const inputs = new Map<string, NdArray>();
  let next = 1;
  for (const op of program.ops) {
    if (op.kind !== "input") continue;
    const shape = op.type.shape.map((dim) => (dim === tokenDim ? T : sizes[dim as "K" | "V"]));
    const value = ndArray(shape);
    for (let i = 0; i < value.data.length; i++) {
      next = (next * 16807) % 2147483647;
      const unit = next / 2147483647;
      value.data[i] = op.label === "g" || op.label === "gamma" ? -unit : 2 * unit - 1;
    }
    inputs.set(op.label, value);
  }
  return inputs;
}
