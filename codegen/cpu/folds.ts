/** Statements that combine elements of a row or column: reduce, cumsum, rotate-half. */
import type { CumSumStmt, ReduceStmt, RotateHalfStmt } from "../../compiler/tile/ir.ts";
import { type Int, type Value, lanes } from "./builder.ts";
import type { KernelContext, Place } from "./context.ts";

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
  const add = (x: Value, y: Value) => b.instructions.CreateFAdd(x, y);
  // The first step stands alone, so that nothing is added to a zero: -0 stays -0.
  const place = (step: Int) => (stmt.reverse ? b.subtract(count - 1, step) : step);
  if (!isTile) {
    const at = (storage: Place, step: Int) => context.element(storage, 0, place(step));
    const first = b.loadFloat(at(src, 0));
    b.storeFloat(first, at(dst, 0));
    b.fold(1, count, 1, "step", [first], (step, [sum]) => {
      const next = add(sum!, b.loadFloat(at(src, step)));
      b.storeFloat(next, at(dst, step));
      return [next];
    });
    return;
  }
  b.loop(0, src.cols, lanes, "col", (col) => {
    const at = (storage: Place, step: Int) => context.element(storage, place(step), col);
    const first = b.call("laspc_load", at(src, 0));
    b.call("laspc_store", first, at(dst, 0));
    b.fold(1, count, 1, "step", [first], (step, [sum]) => {
      const next = add(sum!, b.call("laspc_load", at(src, step)));
      b.call("laspc_store", next, at(dst, step));
      return [next];
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
