/**
 * The tensor program: attention as algebra on named tensors. This page is the manual of the level.
 *
 *   program  = name, dims, ops, results
 *   op       = %id: type = kind %operand, ... {attribute = value}
 *   type     = f32[dim, ...]          the value's shape; storage dtypes live on inputs and results only
 *   dim      = a name bound in `Program.dims`, or a number
 *
 * A program speaks of ONE sequence and ONE head. Batch and heads are mapped over by whoever runs it.
 * `T`, the number of tokens, is the only run-time dim. All arithmetic is exact real arithmetic in
 * meaning; float32 on devices, float64 in the interpreter.
 *
 * Ops stand in dependency order; an op may use only values defined before it in its own region or in
 * an enclosing one. Values are immutable. Two ops own a region:
 *
 *   recurrence   runs its body once per token, carrying states; made by `check`, removed by
 *                `right-product`, which turns it into `scan`s.
 *   chunks       runs its body once per chunk of C consecutive tokens, carrying states; made by
 *                `chunk`, filled by `fuse`; each one becomes a kernel. The last chunk may be shorter.
 *
 * Inside a region `rows %x` reads the part of an outer [T, ...] value that belongs to the current
 * token (type without T) or chunk (T replaced by C). Other outer values are read as they are.
 *
 * Broadcasting (`map` only): an operand's dims must be a subsequence of the result's dims, by name:
 * [T] and [K] both broadcast into [T, K].
 *
 * Decays are natural logarithms, <= 0. A state is the state *after* its token; the token's own
 * contribution is undecayed. Ranges of tokens compose as S_out = M S_in + S_ext.
 */
import { assertNever } from "../support/never.ts";
import type { Span } from "../support/span.ts";

export type ValueId = number & { readonly valueId: true };

/** A dim's name ("T", "K", "C"), or a fixed size. */
export type Dim = string | number;

export type Dtype = "f32" | "f16" | "bf16";

export interface TensorType {
  readonly shape: readonly Dim[];
}

/** How an input varies: per token, per head, shared by all, or one per sequence and head (states). */
export type Per = "token" | "head" | "shared" | "state" | "chunk";

export interface Range {
  readonly low: number;
  readonly high: number;
  readonly lowOpen: boolean;
  readonly highOpen: boolean;
}

interface OpBase {
  readonly id: ValueId;
  /** The user's name for the value, when it has one. */
  readonly name: string | null;
  readonly type: TensorType;
  readonly span: Span;
}

/** A parameter of the attention. `dtype` is how it is stored; its value is f32. */
export interface Input extends OpBase {
  readonly kind: "input";
  readonly label: string;
  readonly per: Per;
  readonly dtype: Dtype;
  readonly range: Range | null;
}
/** `value` at every element of its shape. */
export interface Const extends OpBase {
  readonly kind: "const";
  readonly value: number;
}
/** The size of a dim as a number; of `T`, the whole sequence's length. */
export interface DimSize extends OpBase {
  readonly kind: "dim-size";
  readonly dim: string;
}
/** f32[T]: the index of each token in its sequence, counted from 0. */
export interface TokenIndex extends OpBase {
  readonly kind: "token-index";
}
/** f32[D]: 0, 1, ..., D-1. */
export interface Iota extends OpBase {
  readonly kind: "iota";
}

export const unaryFns = [
  "neg",
  "exp",
  "log",
  "sqrt",
  "rsqrt",
  "abs",
  "sin",
  "cos",
  "tanh",
  "sigmoid",
  "silu",
  "softplus",
  "relu",
  "elu",
  "gelu",
  "square",
  "recip",
  "floor",
  "as_bf16",
] as const;
export const binaryFns = [
  "add",
  "sub",
  "mul",
  "div",
  "max",
  "min",
  "pow",
  "lt",
  "le",
  "gt",
  "ge",
  "eq",
] as const;
export type UnaryFn = (typeof unaryFns)[number];
export type BinaryFn = (typeof binaryFns)[number];
/**
 * Comparisons give 1 or 0; `select(c, a, b)` is a where c is not 0, else b (never mixing the two). `as_bf16(x)` is x: where
 * products take factors in bf16 it is rounded as those are, so that what else reads it reads what the products do.
 */
export type MapFn = UnaryFn | BinaryFn | "select";

/** Elementwise, with broadcasting by dim name. */
export interface MapOp extends OpBase {
  readonly kind: "map";
  readonly fn: MapFn;
  readonly args: readonly ValueId[];
}
/** Reduces one axis (counted from 0) away. */
export interface Reduce extends OpBase {
  readonly kind: "reduce";
  readonly fn: "sum" | "max";
  readonly arg: ValueId;
  readonly axis: number;
}
/** The last axis's two halves swapped, the new first half negated: (a, b) -> (-b, a). Rotary. */
export interface RotateHalf extends OpBase {
  readonly kind: "rotate-half";
  readonly arg: ValueId;
}
/** Product over the last axis of lhs and the first of rhs; vectors are rows on the left, columns on the right. */
export interface MatMul extends OpBase {
  readonly kind: "matmul";
  readonly lhs: ValueId;
  readonly rhs: ValueId;
}
/** [A], [B] -> [A, B]. */
export interface Outer extends OpBase {
  readonly kind: "outer";
  readonly lhs: ValueId;
  readonly rhs: ValueId;
}
export interface Transpose extends OpBase {
  readonly kind: "transpose";
  readonly arg: ValueId;
}
/** Sums from the first token on, or with `reverse` from the last one back; of its own token too, unless `exclusive`. */
export interface SumDirection {
  readonly reverse: boolean;
  readonly exclusive: boolean;
}
/**
 * The token axis summed up: [T, ...] -> [T, ...] (in a chunk: over C). With `block`, sums start anew at every
 * multiple of it. `earlier`: how blocks 0, 2, 4, ... are summed up, where that differs from blocks 1, 3, 5, ...
 */
export interface CumSum extends OpBase, SumDirection {
  readonly kind: "cumsum";
  readonly arg: ValueId;
  readonly block: number | null;
  readonly earlier?: SumDirection;
}
/**
 * Square mask over tokens: D[i, j] = exp(g[j+1] + ... + g[i]) for j <= i, else 0.
 * `logDecay` null: all ones below and on the diagonal; a scalar: the same g at every token; else [T].
 * `strict`: D[i, j] = exp(g[j+1] + ... + g[i-1]) for j < i, else 0 (the read before the update).
 * `reverse`: the same with time running from the last token to the first, so above the diagonal.
 */
export interface Causal extends OpBase {
  readonly kind: "causal";
  readonly logDecay: ValueId | null;
  readonly strict: boolean;
  readonly reverse: boolean;
}
/**
 * Square mask of ones and zeros over the tokens of a chunk. `block` 0: the diagonal. Otherwise tokens
 * are cut into blocks of that many, and D[i, j] = 1 where i lies in the later, j in the earlier block of
 * a pair (0 and 1, 2 and 3, ...); `reverse`: the other way round. The masks of 0, 1, 2, 4, ... C / 2 add
 * up to the causal mask. With `within` D[i, j] = 1 where both lie in one block, and j not behind i (`strict`: before it).
 */
export interface BlockMask extends OpBase {
  readonly kind: "block-mask";
  readonly block: number;
  readonly reverse: boolean;
  readonly within?: { readonly strict: boolean };
}
/**
 * X with (I - L) X = rhs, L the part of `matrix` [C, C] strictly below the diagonal (`upper`: strictly
 * above it). rhs and X: [C, N].
 */
export interface Solve extends OpBase {
  readonly kind: "solve";
  readonly matrix: ValueId;
  readonly rhs: ValueId;
  readonly upper: boolean;
}

/** (I - L)^-1 - I, L the part of the square `arg` [C, C] strictly below its diagonal. Made by `split`. */
export interface Invert extends OpBase {
  readonly kind: "invert";
  readonly arg: ValueId;
}

/** Which part of the state a decay scales. */
export type DecayAxis = "none" | "scalar" | "key" | "value";

/** What a token adds to a state: k v^T. k: [T, K]; v: [T, V]. */
export interface Write {
  readonly k: ValueId;
  readonly v: ValueId;
}

/**
 * The affine scan, the one idea: S_t = D_t S_{t-1} + (sum of k_t v_t^T over `writes`), o_t = q_t S_t.
 * q: [T, K]; logDecay: [] or [T] (scalar), [T, K] or [K] (key), [T, V] or [V] (value), or null (none).
 * `initial`: [K, V] or null for zero. `read` "before" gives o_t = q_t S_{t-1}.
 * `causal` false: every token reads the state after the last token (no mask); logDecay is null then.
 * Result [T, V].
 */
export interface Scan extends OpBase {
  readonly kind: "scan";
  readonly state: string;
  readonly q: ValueId;
  readonly writes: readonly Write[];
  readonly logDecay: ValueId | null;
  readonly initial: ValueId | null;
  readonly axis: DecayAxis;
  readonly read: "after" | "before";
  readonly reverse: boolean;
  readonly causal: boolean;
}
/** The state after the last token of a scan, [K, V]. `initial` and the rest as in `Scan`. */
export interface ScanState extends OpBase {
  readonly kind: "scan-state";
  readonly state: string;
  readonly writes: readonly Write[];
  readonly logDecay: ValueId | null;
  readonly initial: ValueId | null;
  readonly axis: DecayAxis;
  readonly reverse: boolean;
  /** null: the state after the last token. Else the states before each piece of so many tokens. */
  readonly every: number | null;
}

/** A write whose value depends on the state: w = v + erase^T S_{t-1} + (its couplings). */
export interface DeltaWrite extends Write {
  /** [T, K], or null: the state is not read. */
  readonly erase: ValueId | null;
}
/** w[to] gets `scale` ([T]) times w[from] of the same token; from < to. */
export interface Coupling {
  readonly to: number;
  readonly from: number;
  readonly scale: ValueId;
}
/**
 * The values that are written when they depend on the state (delta rules: diagonal plus rank r):
 *   w_m = v_m + erase_m^T S_{t-1} + sum of scale w_m' ,  S_t = D_t S_{t-1} + sum of k_m w_m^T.
 * Result: w of write `index`, [T, V]; scans then read the state that (k, w) writes. `axis` is none,
 * scalar or key; the rest as in `Scan`.
 */
export interface Delta extends OpBase {
  readonly kind: "delta";
  readonly state: string;
  readonly index: number;
  readonly writes: readonly DeltaWrite[];
  readonly couplings: readonly Coupling[];
  readonly logDecay: ValueId | null;
  readonly initial: ValueId | null;
  readonly axis: DecayAxis;
  readonly reverse: boolean;
}

export interface Region {
  /** The carried values as the body sees them; same length as the owner's `inits` and `carries`. */
  readonly params: readonly RegionParam[];
  readonly ops: readonly Op[];
}
export interface RegionParam {
  readonly id: ValueId;
  readonly name: string;
  readonly type: TensorType;
}

export type RegionKind = "recurrence" | "chunks";

/**
 * Once per token, in order (from the last when `reverse`). `inits` are the carried states' first
 * values (null: zero); `carries` their values after the token; `yields` one row of each result.
 * Its own value is unused: results are read with `result`.
 */
export interface Recurrence extends OpBase {
  readonly kind: "recurrence";
  readonly reverse: boolean;
  readonly inits: readonly (ValueId | null)[];
  readonly region: Region;
  readonly carries: readonly ValueId[];
  readonly yields: readonly ValueId[];
}
/**
 * Once per chunk of C tokens, otherwise like `recurrence`; inside, the dim `T` is called `C`. A yield
 * without a C axis is stacked over chunks: [N, ...]. C is at most `longest` where that is not null.
 *
 * With `piece` the sequence is cut into pieces of so many tokens that run side by side, each from a
 * first value of its own: inits and carries are then stacked over pieces, [T/piece, ...].
 */
export interface Chunks extends OpBase {
  readonly kind: "chunks";
  readonly longest: number | null;
  readonly piece: number | null;
  readonly reverse: boolean;
  readonly inits: readonly (ValueId | null)[];
  readonly region: Region;
  readonly carries: readonly ValueId[];
  readonly yields: readonly ValueId[];
}
/**
 * Result `index` of a region owner: its yields stacked over T, the last value of a carry, or
 * (checkpoint) a carry's values before each piece: [T/piece, ...], the piece given by the type.
 */
export interface Result extends OpBase {
  readonly kind: "result";
  readonly of: ValueId;
  readonly part: "yield" | "carry" | "checkpoint";
  readonly index: number;
}
/** Inside a region: the current token's row, the current chunk's rows ([T, ...]), or its value ([N, ...]). */
export interface Rows extends OpBase {
  readonly kind: "rows";
  readonly arg: ValueId;
}

export type Op =
  | Input
  | Const
  | DimSize
  | TokenIndex
  | Iota
  | MapOp
  | Reduce
  | RotateHalf
  | MatMul
  | Outer
  | Transpose
  | CumSum
  | Causal
  | BlockMask
  | Solve
  | Invert
  | Scan
  | ScanState
  | Delta
  | Recurrence
  | Chunks
  | Result
  | Rows;
export type OpKind = Op["kind"];

export interface Output {
  readonly label: string;
  readonly value: ValueId;
  readonly dtype: Dtype;
  /** For "head" and "shared" the value is this sequence's and head's share of a sum (gradients). */
  readonly per: Per;
}

export interface Program {
  readonly name: string;
  /** Sizes by name, in order of appearance; "T" is always "runtime"; null: not given yet. */
  readonly dims: ReadonlyMap<string, number | "runtime" | null>;
  readonly ops: readonly Op[];
  readonly outputs: readonly Output[];
}

/** The dim that a region's `rows` puts in place of `T`. */
export const tokenDim = "T";
export const chunkDim = "C";
/** The number of chunks of a sequence, as a dim: no name that a text can give to one of its own. */
export const chunkCountDim = `${tokenDim}/${chunkDim}`;
/** The number of pieces of `tokens` tokens of a sequence, as a dim: "T/256", rounded up. */
export function pieceDim(tokens: number): Dim {
  return `${tokenDim}/${tokens}`;
}
/** The tokens of a piece, where the dim counts pieces; else null. */
export function pieceOf(dim: Dim | undefined): number | null {
  const prefix = `${tokenDim}/`;
  return typeof dim === "string" && dim.startsWith(prefix) && dim !== chunkCountDim
    ? Number(dim.slice(prefix.length))
    : null;
}

/** The values an op reads, in a fixed order; of a region owner, its inits (not what its body reads). */
export function operands(op: Op): readonly ValueId[] {
  switch (op.kind) {
    case "input":
    case "const":
    case "dim-size":
    case "token-index":
    case "iota":
    case "block-mask":
      return [];
    case "map":
      return op.args;
    case "reduce":
    case "rotate-half":
    case "transpose":
    case "cumsum":
    case "invert":
    case "rows":
      return [op.arg];
    case "matmul":
    case "outer":
      return [op.lhs, op.rhs];
    case "causal":
      return present([op.logDecay]);
    case "solve":
      return [op.matrix, op.rhs];
    case "scan":
      return present([op.q, ...op.writes.flatMap(({ k, v }) => [k, v]), op.logDecay, op.initial]);
    case "scan-state":
      return present([...op.writes.flatMap(({ k, v }) => [k, v]), op.logDecay, op.initial]);
    case "delta":
      return present([
        ...op.writes.flatMap(({ k, v, erase }) => [k, v, erase]),
        ...op.couplings.map(({ scale }) => scale),
        op.logDecay,
        op.initial,
      ]);
    case "recurrence":
    case "chunks":
      return present(op.inits);
    case "result":
      return [op.of];
    default:
      return assertNever(op);
  }
}

/** The op with `f` applied to every value it reads; the same object when nothing changed. */
export function mapOperands<O extends Op>(op: O, f: (id: ValueId) => ValueId): O {
  const before = operands(op);
  const opt = (id: ValueId | null) => (id === null ? null : f(id));
  if (before.every((id) => f(id) === id)) return op;
  const any: Op = op;
  const changed = (): Op => {
    switch (any.kind) {
      case "input":
      case "const":
      case "dim-size":
      case "token-index":
      case "iota":
      case "block-mask":
        return any;
      case "map":
        return { ...any, args: any.args.map(f) };
      case "reduce":
      case "rotate-half":
      case "transpose":
      case "cumsum":
      case "invert":
      case "rows":
        return { ...any, arg: f(any.arg) };
      case "matmul":
      case "outer":
        return { ...any, lhs: f(any.lhs), rhs: f(any.rhs) };
      case "causal":
        return { ...any, logDecay: opt(any.logDecay) };
      case "solve":
        return { ...any, matrix: f(any.matrix), rhs: f(any.rhs) };
      case "scan":
      case "scan-state": {
        const writes = any.writes.map(({ k, v }) => ({ k: f(k), v: f(v) }));
        const rest = { writes, logDecay: opt(any.logDecay), initial: opt(any.initial) };
        return any.kind === "scan" ? { ...any, ...rest, q: f(any.q) } : { ...any, ...rest };
      }
      case "delta":
        return {
          ...any,
          writes: any.writes.map(({ k, v, erase }) => ({ k: f(k), v: f(v), erase: opt(erase) })),
          couplings: any.couplings.map((coupling) => ({ ...coupling, scale: f(coupling.scale) })),
          logDecay: opt(any.logDecay),
          initial: opt(any.initial),
        };
      case "recurrence":
      case "chunks":
        return { ...any, inits: any.inits.map(opt) };
      case "result":
        return { ...any, of: f(any.of) };
      default:
        return assertNever(any);
    }
  };
  return changed() as O;
}

/** Every op of a program in order, those of regions right before their owner. */
export function* allOps(ops: readonly Op[]): Generator<Op> {
  for (const op of ops) {
    if (op.kind === "recurrence" || op.kind === "chunks") yield* allOps(op.region.ops);
    yield op;
  }
}

/** Does the program use positions of tokens, or how many there are? */
export function countsTokens(program: Program): boolean {
  return [...allOps(program.ops)].some(
    (op) => op.kind === "token-index" || (op.kind === "dim-size" && op.dim === tokenDim),
  );
}

function present(ids: readonly (ValueId | null)[]): ValueId[] {
  return ids.filter((id): id is ValueId => id !== null);
}
