/** Statements that combine elements of a row or column: reduce, cumsum, solve, rotate-half. */
import {
  type CumSumStmt,
  type ReduceStmt,
  type RotateHalfStmt,
  type SolveStmt,
  type SumPart,
  sumParts,
} from "../../compiler/tile/ir.ts";
import type { MapFn, SumDirection } from "../../compiler/tensor/ir.ts";
import { type Int, type Value, lanes } from "./builder.ts";
import type { KernelContext } from "./context.ts";
import { applyFn } from "./ops.ts";

export function emitReduce(context: KernelContext, stmt: ReduceStmt): void {
  const { b } = context;
  const [dst, src] = [context.place(stmt.dst), context.place(stmt.src)];
  const join = (x: Value, y: Value) =>
    stmt.fn === "sum" ? b.instructions.CreateFAdd(x, y) : b.call("laspc_greatest", x, y);
  const load = (row: Int, col: Int) => b.call("laspc_load", context.element(src, row, col));
  if (src.rank === 2 && stmt.axis === "row") {
    b.loop(0, src.cols, lanes, "col", (col) => {
      const [total] = b.fold(1, src.rows, 1, "row", [load(0, col)], (row, [sum]) => [
        join(sum!, load(row, col)),
      ]);
      b.call("laspc_store", total!, context.element(dst, 0, col));
    });
    return;
  }
  // Along a row (a vector is one): lanes side by side, then across the lanes.
  b.loop(0, src.rows, 1, "row", (row) => {
    const [total] = b.fold(lanes, src.cols, lanes, "col", [load(row, 0)], (col, [sum]) => [
      join(sum!, load(row, col)),
    ]);
    const across = b.call(stmt.fn === "sum" ? "laspc_sum" : "laspc_largest", total!);
    b.storeFloat(across, context.element(dst, 0, row));
  });
}

export function emitCumSum(context: KernelContext, stmt: CumSumStmt): void {
  const { b } = context;
  const [dst, src] = [context.place(stmt.dst), context.place(stmt.src)];
  const isTile = src.rank === 2;
  const count = isTile ? src.rows : src.cols;
  const block = stmt.block ?? count;
  const add = (x: Value, y: Value) => b.instructions.CreateFAdd(x, y);
  /** Sums of a column (a vector: all of it), of every block that starts at `from`, `from` + `stride`, ... */
  const sumBlocks = (
    { reverse, exclusive }: SumDirection,
    from: number,
    stride: number,
    zero: Value,
    load: (at: Int) => Value,
    store: (value: Value, at: Int) => void,
  ): void => {
    b.loop(from, count, stride, "block", (start) => {
      const place = (step: Int) => b.add(start, reverse ? b.subtract(block - 1, step) : step);
      // The first step stands alone, so that nothing is added to a zero: -0 stays -0.
      const first = load(place(0));
      store(exclusive ? zero : first, place(0));
      b.fold(1, block, 1, "step", [first], (offset, [sum]) => {
        const at = place(offset);
        const next = add(sum!, load(at));
        store(exclusive ? sum! : next, at);
        return [next];
      });
    });
  };
  const sumUp = (
    zero: Value,
    load: (at: Int) => Value,
    store: (value: Value, at: Int) => void,
  ): void => {
    const { earlier } = stmt;
    if (!earlier) return sumBlocks(stmt, 0, block, zero, load, store);
    sumBlocks(earlier, 0, 2 * block, zero, load, store);
    sumBlocks(stmt, block, 2 * block, zero, load, store);
  };
  if (!isTile) {
    if (stmt.part) takeParts(context, stmt, stmt.part);
    const terms = stmt.part ? dst : src;
    sumUp(
      b.float(0),
      (at) => b.loadFloat(context.element(terms, 0, at)),
      (value, at) => b.storeFloat(value, context.element(dst, 0, at)),
    );
    return;
  }
  b.loop(0, src.cols, lanes, "col", (col) => {
    sumUp(
      b.zero(),
      (at) => b.call("laspc_load", context.element(src, at, col)),
      (value, at) => b.call("laspc_store", value, context.element(dst, at, col)),
    );
  });
}

/** dst = a part of each element of src, still to be summed up. */
function takeParts(context: KernelContext, stmt: CumSumStmt, part: SumPart): void {
  const { b } = context;
  const [dst, src] = [context.place(stmt.dst), context.place(stmt.src)];
  const { quantum, deepest } = sumParts;
  const fn = (name: MapFn, ...args: Value[]) => applyFn(b, name, args);
  b.loop(0, src.cols, lanes, "col", (col) => {
    const own = b.call("laspc_load", context.element(src, 0, col));
    const floor = b.splat(deepest);
    const each = fn("select", fn("lt", own, floor), floor, own);
    const steps = fn("add", fn("mul", each, b.splat(1 / quantum)), b.splat(0.5));
    const coarse = fn("mul", fn("floor", steps), b.splat(quantum));
    const value = part === "coarse" ? coarse : fn("sub", each, coarse);
    b.call("laspc_store", value, context.element(dst, 0, col));
  });
}

/** Rows in order, each with what those before it add: 16 columns at a time. */
export function emitSolve(context: KernelContext, stmt: SolveStmt): void {
  const { b } = context;
  const [dst, matrix] = [context.place(stmt.dst), context.place(stmt.matrix)];
  const place = (step: Int) => (stmt.upper ? b.subtract(dst.rows - 1, step) : step);
  b.loop(1, dst.rows, 1, "row", (step) => {
    const row = place(step);
    b.loop(0, dst.cols, lanes, "col", (col) => {
      const at = context.element(dst, row, col);
      const [sum] = b.fold(0, step, 1, "before", [b.call("laspc_load", at)], (before, [so]) => {
        const other = place(before);
        const [i, j] = stmt.transpose ? [other, row] : [row, other];
        const factor = b.splat(b.loadFloat(context.element(matrix, i, j)));
        const value = b.call("laspc_load", context.element(dst, other, col));
        return [b.call("laspc_muladd", factor, value, so!)];
      });
      b.call("laspc_store", sum!, at);
    });
  });
}

/** Both halves are read before either is written, so dst may be src. */
export function emitRotateHalf(context: KernelContext, stmt: RotateHalfStmt): void {
  const { b } = context;
  const [dst, src] = [context.place(stmt.dst), context.place(stmt.src)];
  const half = stmt.width / 2;
  b.loop(0, src.rows, 1, "row", (row) => {
    for (let col = 0; col < half; col += lanes) {
      const count = Math.min(lanes, half - col);
      const low = b.call("laspc_load_first", context.element(src, row, col), count);
      const high = b.call("laspc_load_first", context.element(src, row, half + col), count);
      const negated = b.instructions.CreateFNeg(high);
      b.call("laspc_store_first", negated, context.element(dst, row, col), count);
      b.call("laspc_store_first", low, context.element(dst, row, half + col), count);
    }
    for (let col = stmt.width; col < dst.cols; col += lanes) {
      const count = Math.min(lanes, dst.cols - col);
      b.call("laspc_store_first", b.zero(), context.element(dst, row, col), count);
    }
  });
}
