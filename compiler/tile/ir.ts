/**
 * Tile programs: kernels as statements on tiles in named memories. This page is the manual of the
 * level; a backend can be written from it alone.
 *
 * A kernel runs once per point of its grid. The first grid axis is always (batch b, head h), B x H
 * points; every further axis steps a variable over an extent. One point is served by `threads`
 * threads together (one on a CPU); a statement is executed by all of them as one.
 *
 *   kernel  = params, grid, storages, body
 *   param   = a global buffer; which part of it belongs to (b, h) follows from `per`:
 *               token   [B, T, heads, cols...]   rows are tokens
 *               state   [B, H, rows, cols]       or [B, H] for a scalar
 *               head    [heads, cols...]
 *               shared  [rows, cols...]
 *               chunk   [B, N, H, rows, cols...]   one for each chunk of `chunk` tokens, N = ceil(T / chunk)
 *             A kernel with a param `cu_seqlens` also serves packed sequences: where the run-time scalar
 *             `packed` is 1, batch b is the sequence of tokens cu_seqlens[b] to cu_seqlens[b + 1] of
 *             one token axis, and T is all of them together; T below means the sequence's own length,
 *             but for grid axes, whose points behind it do nothing. Its first chunk is number cu_seqlens[b] / chunk + b of [N, H, ...].
 *             `heads` divides H; head h reads head h / (H / heads) (grouped heads).
 *   storage = a scalar, vector or tile of f32 (or narrower), owned by the grid point:
 *               register  a tile spread over the threads; a scalar that every thread has
 *               shared    a tile or vector that every thread can address
 *             A CPU keeps both on its stack. Physical row stride of a shared tile: cols + pad.
 *   stmt    = see the union below; statements mutate storages, in order.
 *
 * Ranks: a storage has rank 0 (scalar), 1 (vector of `rows`) or 2 (rows x cols). GPU targets pad
 * rows and cols to multiples of `limits.align`; padding holds zeros where a statement below reads
 * across it, and that is the business of `from-tensor`, not of the emitters.
 *
 * Bounds: `load` gives 0 outside the buffer's own extent (rows >= T of a token buffer, columns >= its
 * last dim); `store` writes nothing there. So T need not be a multiple of anything.
 *
 * Memory order: after a statement writes a shared storage, another thread may read it only past a
 * `barrier`. The pass `insert-barriers` puts them in; emitters never add their own, save inside
 * `reduce` and `cumsum` where the manual says so.
 *
 * Tensor cores and asynchronous copies: operands of `mma` may be shared and narrower than f32 while
 * `dst` is f32 in registers; `copy-async` starts a load into shared memory that `wait` completes. A pipeline is a
 * shared storage with several places: one is computed on while the others are filled for the turns behind. At the
 * end of a turn of the loop that copies ahead to it a storage moves on to its next place.
 *
 * Roles: a kernel's threads may be divided into groups that run different statements of one body side by
 * side, each in the body's order. Storages that one role writes belong to it. Another reads them behind a
 * `signal` and its `await`; `wait` and barriers without a role are where all roles meet.
 *
 * Shared tiles narrower than f32 lie as the target's matrix instructions want them, without padding.
 */
import type { Dtype, MapFn, Per, SumDirection } from "../tensor/ir.ts";
import type { Triangle } from "../tensor/triangle.ts";

export type StorageId = number & { readonly storageId: true };

export type Memory = "register" | "shared";

export interface Storage {
  readonly id: StorageId;
  /** Unique in its kernel; the name the emitted code uses. */
  readonly name: string;
  readonly memory: Memory;
  readonly dtype: Dtype;
  /** [] scalar, [rows] vector, [rows, cols] tile. Static sizes, padding included. */
  readonly shape: readonly number[];
  /** Elements added to each row of a shared tile against bank conflicts. */
  readonly pad: number;
  /** Of what is copied ahead: how many there are of it in turn; absent: one. */
  readonly places?: number;
}

export interface Param {
  /** The buffer's name: an input, an output or a workspace of the form. */
  readonly name: string;
  readonly access: "read" | "write";
  readonly per: Per;
  /** Tokens of a chunk, for what is stored per chunk. */
  readonly chunk?: number;
  /** "i32" for `cu_seqlens` only. */
  readonly dtype: Dtype | "i32";
  /** Dims after the ones `per` adds: token ["T", 64] or ["T"]; state [64, 64] or []; and so on. */
  readonly shape: readonly (number | "T")[];
  /** The run-time scalar that holds this buffer's head count, "H" or "H_<name>". */
  readonly heads: string;
  /** Of what each of the kernel's blocks of columns has its own share: how many a head has, one behind the other. */
  readonly shares?: number;
}

/** Is it a state that a form begins with, or a cotangent of one that it ends with? No buffer then means zero, on CUDA. */
export function mayBeAbsent({ name, access, per }: Param): boolean {
  return access === "read" && per === "state" && /^(initial|d_final)_/.test(name);
}

/** Is it a state that a form ends with, or a cotangent of one that it begins with? On CUDA who has no buffer for it gets none. */
export function mayBeUnwanted({ name, access, per }: Param): boolean {
  return access === "write" && per === "state" && /^(final|d_initial)_/.test(name);
}

/** A grid axis: `name` takes 0, step, 2 step, ... below `extent`. */
export interface GridAxis {
  readonly name: string;
  readonly extent: number | "T";
  readonly step: number;
}

/** The axis over blocks of columns, if the kernel has one. */
export function columnAxis({ grid }: Pick<Kernel, "grid">): GridAxis | undefined {
  return grid.find(({ extent }) => extent !== "T");
}

/** `name + offset`, where name is a loop variable or a grid axis (null: just the offset). */
export interface Index {
  readonly base: string | null;
  readonly offset: number;
}

/** A rectangle of a buffer; the storage on the other side gives its size. Vectors use `row` only. */
export interface View {
  readonly param: string;
  /** Of a buffer per chunk: its chunk's first token. */
  readonly token?: Index;
  readonly row: Index;
  readonly col: Index;
}

/** A rectangle of a tile storage. */
export interface Window {
  readonly storage: StorageId;
  readonly row: Index;
  readonly col: Index;
  readonly rows: number;
  readonly cols: number;
}

export type Axis = "row" | "col";

/** What a `map` computes for the element at (row, col) of its destination (vectors: row only). */
export type Expr =
  | { readonly kind: "const"; readonly value: number }
  /** A storage read at (row, col), or as a vector at row or at col, or as a scalar. */
  | {
      readonly kind: "read";
      readonly storage: StorageId;
      readonly at: "tile" | "row" | "col" | "scalar";
    }
  /** start + the element's own row or col as a float; `global` adds the run-time `token_offset`. */
  | { readonly kind: "index"; readonly axis: Axis; readonly start: Index; readonly global: boolean }
  /** 1 where start + the element's own row or col is below `limit` ("T": run time), else 0. */
  | {
      readonly kind: "inside";
      readonly axis: Axis;
      readonly start: Index;
      readonly limit: number | "T";
    }
  /** A run-time integer as a float: the tokens here, or of the whole sequence. */
  | { readonly kind: "runtime"; readonly scalar: "T" | "T_total" }
  | { readonly kind: "call"; readonly fn: MapFn; readonly args: readonly Expr[] };

interface StmtBase {
  /** Of a kernel with roles the one that executes it, with its threads alone; absent: each of them does. */
  readonly role?: number;
  /** The source line this came from ("retention.lasp:4  scores = ..."), printed once above a group. */
  readonly note: string | null;
}

/** dst = the view, converted to f32, zero outside the buffer. */
export interface Load extends StmtBase {
  readonly kind: "load";
  readonly dst: StorageId;
  readonly view: View;
}
/** view = src, converted to the buffer's dtype (to nearest even); nothing outside the buffer. */
export interface Store extends StmtBase {
  readonly kind: "store";
  readonly src: StorageId;
  readonly view: View;
}
/**
 * Starts dst (shared, the buffer's own dtype) = view; dst is undefined until a `wait`. Of the loop around it in
 * all turns or in the "first" alone. `ahead`: for so many turns later, if there is such a turn, in the place that dst
 * has then. `isLast`: of a group that is waited for together.
 */
export interface CopyAsync extends StmtBase {
  readonly kind: "copy-async";
  readonly turns: "all" | "first";
  readonly ahead: number;
  readonly dst: StorageId;
  readonly view: View;
  readonly isLast?: true;
}
/**
 * The copies behind the last group are one too. Blocks until at most `pending` groups are under way, then is a barrier:
 * what every thread copied is there for all.
 */
export interface Wait extends StmtBase {
  readonly kind: "wait";
  readonly pending: number;
}
/**
 * dst = src between windows of the same size (register to shared: staging of operands); with
 * `transpose`, dst[i, j] = src[j, i] and dst's rows are src's columns. `rest`: what src loses when it is rounded to dst's
 * type is copied in its place.
 */
export interface Copy extends StmtBase {
  readonly kind: "copy";
  readonly transpose: boolean;
  readonly rest?: true;
  readonly dst: Window;
  readonly src: Window;
}
/** dst[row, col] = expr. May read dst at the same element. */
export interface MapStmt extends StmtBase {
  readonly kind: "map";
  readonly dst: StorageId;
  readonly expr: Expr;
}
/**
 * dst += op(lhs) op(rhs), op the transpose where the flag says so. Sizes are the windows' own. With `triangle` op(lhs) is
 * one: terms that its zeros have a part in are left out, whatever op(rhs) holds there, by all targets but tensor cores.
 */
export interface Mma extends StmtBase {
  readonly kind: "mma";
  readonly dst: Window;
  readonly lhs: Window;
  readonly rhs: Window;
  readonly transposeLhs: boolean;
  readonly transposeRhs: boolean;
  readonly triangle?: TriangleTerms;
}
/** Terms of row r of dst's tile are those whose number n <= r (`upper`: n >= r; `strict`: not n = r). */
export interface TriangleTerms extends Triangle {
  /** The number of the first term. */
  readonly from: Index;
}
/**
 * Half of a product lhs rhs^T of register tiles whose columns warps share, without barriers: each warp multiplies what it
 * has of both and writes that to dst, a shared tile, as many rows of its own as the product has. `join` is the other half.
 */
export interface MmaParts extends StmtBase {
  readonly kind: "mma-parts";
  readonly dst: StorageId;
  readonly lhs: StorageId;
  readonly rhs: StorageId;
}
/**
 * Tile to vector: axis "col" folds the columns (dst has the tile's rows), "row" folds the rows.
 * Vector to scalar: axis "row". `scratch`: a shared tile for the partial results of register tiles, of 16 columns for
 * lanes or 8 for warps, as many rows at a time as it has; null where threads of one warp have all of a row. Either reduce holds its own barriers.
 */
export interface ReduceStmt extends StmtBase {
  readonly kind: "reduce";
  readonly fn: "sum" | "max";
  readonly dst: StorageId;
  readonly src: StorageId;
  readonly axis: Axis;
  readonly scratch: StorageId | null;
}
/**
 * Half of a `reduce` of a register tile, without barriers: warps that share its rows (axis "col") or columns write what each
 * finds of one to a column of their own of dst, a shared tile; where a warp has all of it, dst is the vector.
 */
export interface Fold extends StmtBase {
  readonly kind: "fold";
  readonly fn: "sum" | "max";
  readonly dst: StorageId;
  readonly src: StorageId;
  readonly axis: Axis;
}
/** The other half: dst, a vector, of all columns of what was folded; or a register tile, of all parts of a product. */
export interface Join extends StmtBase {
  readonly kind: "join";
  readonly fn: "sum" | "max";
  readonly dst: StorageId;
  readonly src: StorageId;
}
/**
 * Sums of log decays in two parts, so that their differences keep their digits where strong decays stand beside weak
 * ones: "coarse" are the elements rounded to multiples of `quantum`, which float32 adds and subtracts exactly, "fine"
 * is what rounding left. What lies below `deepest` counts as that: exp of it is exactly 0, in float64 too.
 */
export type SumPart = "coarse" | "fine";
export const sumParts = {
  /** Sums of a chunk's multiples of it, 128 elements at most, have no more than float32's 24 bits. */
  quantum: 2 ** -7,
  deepest: -1024,
} as const;
/**
 * Prefix sum of a vector, or down the rows of a tile; `reverse`: suffix sum; `exclusive`: without the own
 * element. With `block` sums start anew at every multiple of it, and with `earlier` blocks 0, 2, 4, ... are summed
 * up that way. On GPU targets dst and src are shared (stage-operands), or the target sums in registers, where src may be a
 * shared tile in bf16. `part` (of a whole vector): of a part of each element.
 */
export interface CumSumStmt extends StmtBase, SumDirection {
  readonly kind: "cumsum";
  readonly part?: SumPart;
  readonly block: number | null;
  readonly earlier?: SumDirection;
  readonly dst: StorageId;
  readonly src: StorageId;
}
/**
 * dst = X with (I - L) X = dst, L the part of the square tile `matrix` (`transpose`: of its transpose)
 * strictly below its diagonal (`upper`: above). On GPU targets both are shared and nothing is transposed
 * (stage-operands); the columns of dst are solved side by side.
 */
export interface SolveStmt extends StmtBase {
  readonly kind: "solve";
  readonly upper: boolean;
  readonly transpose: boolean;
  readonly dst: StorageId;
  readonly matrix: StorageId;
}
/**
 * Each row (a, b), halves of `width` valid columns, to (-b, a). On GPU targets src is a register tile
 * when width is a multiple of 32 (each thread then owns both halves of what it needs), else shared.
 */
/** x = (I - L)^-1 - I in place, L what x has strictly below its diagonal; above it x is zero after. */
export interface Invert extends StmtBase {
  readonly kind: "invert";
  readonly dst: StorageId;
}
export interface RotateHalfStmt extends StmtBase {
  readonly kind: "rotate-half";
  readonly dst: StorageId;
  readonly src: StorageId;
  readonly width: number;
}
/**
 * for (var = 0; var < extent; var += step), backwards when `reverse` (starting at the last multiple
 * of step below the extent). Loops over a number are meant to be unrolled. With `within` the loop runs
 * over its part of the extent only: `length` (a multiple of step) from where a grid axis or an outer
 * loop stands.
 */
export interface Loop extends StmtBase {
  readonly kind: "loop";
  readonly variable: string;
  readonly extent: number | "T";
  readonly step: number;
  readonly within: { readonly base: string; readonly length: number } | null;
  readonly reverse: boolean;
  readonly body: readonly Stmt[];
}
/** A role's threads wait for each other; without a role all of the kernel's do. */
export interface Barrier extends StmtBase {
  readonly kind: "barrier";
}
/** What this role wrote to shared storages so far is there for the role that awaits the same number. */
export interface Signal extends StmtBase {
  readonly kind: "signal";
  readonly number: number;
}
/** Blocks this role until the other has signalled the number, once for each time it does. */
export interface Await extends StmtBase {
  readonly kind: "await";
  readonly number: number;
}

export type Stmt =
  | Load
  | Store
  | CopyAsync
  | Wait
  | Copy
  | MapStmt
  | Mma
  | MmaParts
  | ReduceStmt
  | Fold
  | Join
  | CumSumStmt
  | SolveStmt
  | Invert
  | RotateHalfStmt
  | Loop
  | Barrier
  | Signal
  | Await;
export type StmtKind = Stmt["kind"];

export interface Kernel {
  readonly name: string;
  readonly params: readonly Param[];
  readonly grid: readonly GridAxis[];
  readonly threads: number;
  /** How many threads each role has, `threads` in all; see `StmtBase.role`. */
  readonly roles?: readonly number[];
  readonly storages: readonly Storage[];
  readonly body: readonly Stmt[];
}

/** The kernels of one form, to be launched in order. */
export interface TileProgram {
  readonly name: string;
  readonly kernels: readonly Kernel[];
}

/**
 * Run-time integers of every launch: B, T (tokens here), H, T_total and token_offset (this range's
 * place in the whole sequence), packed, and one H_<param> per token or head buffer.
 */
export const runtimeScalars = ["B", "T", "H", "T_total", "token_offset", "packed"] as const;

/** The param that gives the cuts of packed sequences: int32, one more than there are sequences. */
export const cutsParam: Param = {
  name: "cu_seqlens",
  access: "read",
  per: "shared",
  dtype: "i32",
  shape: [],
  heads: "H",
};

/** Does a kernel serve packed sequences? */
export function servesPacked(kernel: Kernel): boolean {
  return kernel.params.some(({ dtype }) => dtype === "i32");
}
