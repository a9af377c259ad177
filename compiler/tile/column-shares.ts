/**
 * Shares of blocks of columns. Where a target lets blocks of a state's columns fold along them (`Limits.sharedAlong`), each
 * block is an attention of its own of what they share, and what it folds is its share of the whole:
 *
 *   grid column below 256 step 64
 *   mma d_q += d_o @ S^T               over the 64 columns of the block
 *   store shares_d_q[t, 0] = d_q       bf16[T, 128] heads H shares 4
 *
 * Kernels that read shares have blocks too, whatever else they compute. Outputs are added up in the end.
 */
import {
  type Chunks,
  type Dim,
  type Op,
  type Program,
  type ValueId,
  operands,
} from "../tensor/ir.ts";
import { captured } from "../tensor/rewrite.ts";
import type { Expr, Kernel, Param, Stmt, Storage, StorageId } from "./ir.ts";
import { cutsParam } from "./ir.ts";
import { loopVariable } from "./lower-kernel.ts";
import type { Limits } from "./target.ts";

export interface ColumnShares {
  /** The dim of the columns; null: blocks fold along none. */
  readonly dim: string | null;
  /** Loops of which there is a kernel for each block. */
  readonly loops: ReadonlySet<ValueId>;
  /** How many shares of a loop's result a head has; absent: one. */
  readonly counts: ReadonlyMap<ValueId, number>;
  /** Is a kernel that computes these values outside of loops one for each block? */
  readonly areCut: (values: Iterable<ValueId>) => boolean;
}

export function columnShares(
  program: Program,
  { sharedAlong, columnBlocks }: Limits,
  sizeOf: (dim: Dim) => number,
): ColumnShares {
  const counts = new Map<ValueId, number>();
  const loops = new Set<ValueId>();
  if (sharedAlong === undefined) return { dim: null, loops, counts, areCut: () => false };
  const dim = sharedAlong;
  const count = sizeOf(dim) / columnBlocks[0]!;
  const ops = new Map(program.ops.map((op) => [op.id, op]));
  const hasColumns = ({ type }: Pick<Op, "type">) => type.shape.includes(dim);
  const areCut = (values: Iterable<ValueId>): boolean =>
    [...values].some((id) => {
      const op = ops.get(id);
      if (op === undefined) return false;
      // What a loop gives is read, all else computed again.
      if (counts.has(id) || hasColumns(op)) return true;
      return op.kind !== "result" && op.kind !== "chunks" && areCut(operands(op));
    });
  for (const loop of program.ops.filter((op): op is Chunks => op.kind === "chunks")) {
    const { params, ops: inner } = loop.region;
    const read = [...operands(loop), ...captured(loop.region)];
    if (![...params, ...inner].some(hasColumns) && !areCut(read)) continue;
    loops.add(loop.id);
    // Also of what takes no columns each block has one, a copy: all outputs without them are gradients, and linear in the columns'.
    for (const op of program.ops) {
      const isShared = op.kind === "result" && op.of === loop.id && !hasColumns(op);
      if (isShared) counts.set(op.id, count);
    }
  }
  return { dim, loops, counts, areCut };
}

/** An output, a row of `cols` numbers to a token, and the buffer of its shares. */
export interface Sum {
  readonly shares: Param;
  readonly label: string;
  readonly cols: number;
}

/** Rows of a block that adds up shares. */
const rowsOfSums = 32;

/** Adds up shares of rows of tokens, which lie one behind the other. */
export function sumKernel(
  name: string,
  { shares: from, label, cols }: Sum,
  { threads, alignRows, alignCols }: Limits,
): Kernel {
  const { shares: count, ...param } = from;
  const step = Math.ceil(rowsOfSums / alignRows) * alignRows;
  const tile = (id: number, of: string): Storage => ({
    id: id as StorageId,
    name: of,
    memory: "register",
    dtype: "f32",
    shape: [step, Math.ceil(cols / alignCols) * alignCols],
    pad: 0,
  });
  const storages = [tile(0, label), tile(1, "share")] as const;
  const [total, share] = storages;
  const row = { base: loopVariable, offset: 0 };
  const load = (dst: StorageId, offset: number): Stmt => {
    const view = { param: param.name, row, col: { base: null, offset } };
    return { kind: "load", dst, view, note: null };
  };
  const args = storages.map(({ id }): Expr => ({ kind: "read", storage: id, at: "tile" }));
  const sum: Expr = { kind: "call", fn: "add", args };
  const add: Stmt = { kind: "map", dst: total.id, expr: sum, note: null };
  const others = Array.from({ length: count! - 1 }, (_, n) => (n + 1) * cols);
  const view = { param: label, row, col: { base: null, offset: 0 } };
  return {
    name,
    params: [
      { ...param, shape: ["T", count! * cols] },
      { ...param, name: label, access: "write" },
      cutsParam,
    ],
    grid: [{ name: loopVariable, extent: "T", step }],
    threads,
    storages,
    body: [
      load(total.id, 0),
      ...others.flatMap((offset) => [load(share.id, offset), add]),
      { kind: "store", src: total.id, view, note: null },
    ],
  };
}
