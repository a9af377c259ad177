/** Loads and stores: between buffers of any dtype and storages, row by row, inside the buffer's bounds. */
import type { StorageId, View } from "../../compiler/tile/ir.ts";
import { type Builder, type Int, type Value, lanes } from "./builder.ts";
import type { KernelContext, Part } from "./context.ts";

const readers = {
  f32: ["laspc_load", "laspc_load_first"],
  f16: ["laspc_load_f16", "laspc_load_first_f16"],
  bf16: ["laspc_load_bf16", "laspc_load_first_bf16"],
} as const;

const writers = {
  f32: ["laspc_store", "laspc_store_first"],
  f16: ["laspc_store_f16", "laspc_store_first_f16"],
  bf16: ["laspc_store_bf16", "laspc_store_first_bf16"],
} as const;

/** 16 numbers from `index` on, those from `count` on zero (null: all are inside). */
function read(b: Builder, part: Part, index: Int, count: Int | null): Value {
  const at = b.at(part.dtype === "f32" ? "float" : "half", part.pointer, index);
  const [whole, first] = readers[part.dtype];
  return count === null ? b.call(whole, at) : b.call(first, at, count);
}

function write(b: Builder, part: Part, index: Int, count: Int | null, value: Value): void {
  const at = b.at(part.dtype === "f32" ? "float" : "half", part.pointer, index);
  const [whole, first] = writers[part.dtype];
  if (count === null) b.call(whole, value, at);
  else b.call(first, value, at, count);
}

/** Calls `body` for every 16 of `cols` columns with how many lie below `limit` (null: all, 0: none). */
function forVectors(
  b: Builder,
  cols: number,
  limit: Int,
  body: (col: Int, count: Int | null) => void,
): void {
  if (typeof limit !== "number") {
    b.loop(0, cols, lanes, "col", (col) => body(col, b.subtract(limit, col)));
    return;
  }
  const whole = Math.floor(limit / lanes) * lanes;
  b.loop(0, whole, lanes, "col", (col) => body(col, null));
  if (whole < limit) body(whole, limit - whole);
  const used = Math.ceil(limit / lanes) * lanes;
  b.loop(used, cols, lanes, "pad", (col) => body(col, 0));
}

/** dst = view, zero outside of the buffer. */
export function load(context: KernelContext, dst: StorageId, view: View): void {
  const { b } = context;
  const place = context.place(dst);
  const part = context.partOf(view);
  const [row0, col0] = [context.index(view.row), context.index(view.col)];
  const source = (row: Int, col: Int) =>
    b.add(b.multiply(b.add(row0, row), part.rowStride), b.add(col0, col));
  const zero = b.zero();
  if (place.rank < 2) {
    loadVector(context, dst, view);
    return;
  }
  const { rows, cols } = context.bounds(view, place.rows, place.cols);
  b.loop(0, rows, 1, "row", (row) => {
    forVectors(b, place.cols, cols, (col, count) => {
      const value = count === 0 ? zero : read(b, part, source(row, col), count);
      b.call("laspc_store", value, context.element(place, row, col));
    });
  });
  b.loop(rows, place.rows, 1, "outside", (row) => {
    b.loop(0, place.cols, lanes, "col", (col) => {
      b.call("laspc_store", zero, context.element(place, row, col));
    });
  });
}

/** A vector lies down the rows of its buffer; contiguous when the rows are single numbers. */
function loadVector(context: KernelContext, dst: StorageId, view: View): void {
  const { b } = context;
  const place = context.place(dst);
  const part = context.partOf(view);
  const [row0, col0] = [context.index(view.row), context.index(view.col)];
  const { rows } = context.bounds(view, place.cols, 1);
  if (part.rowStride === 1 && place.rank === 1) {
    forVectors(b, place.cols, rows, (row, count) => {
      const value = count === 0 ? b.zero() : read(b, part, b.add(row0, row), count);
      b.call("laspc_store", value, context.element(place, 0, row));
    });
    return;
  }
  b.loop(0, rows, 1, "row", (row) => {
    const index = b.add(b.multiply(b.add(row0, row), part.rowStride), col0);
    const value = b.call("laspc_scalar", read(b, part, index, 1));
    b.storeFloat(value, context.element(place, 0, row));
  });
  b.loop(rows, place.cols, 1, "outside", (row) => {
    b.storeFloat(b.float(0), context.element(place, 0, row));
  });
}

/** view = src, nothing outside of the buffer. */
export function store(context: KernelContext, src: StorageId, view: View): void {
  const { b } = context;
  const place = context.place(src);
  const part = context.partOf(view);
  const [row0, col0] = [context.index(view.row), context.index(view.col)];
  const target = (row: Int, col: Int) =>
    b.add(b.multiply(b.add(row0, row), part.rowStride), b.add(col0, col));
  if (place.rank < 2) {
    storeVector(context, src, view);
    return;
  }
  const { rows, cols } = context.bounds(view, place.rows, place.cols);
  b.loop(0, rows, 1, "row", (row) => {
    forVectors(b, place.cols, cols, (col, count) => {
      if (count === 0) return;
      const value = b.call("laspc_load", context.element(place, row, col));
      write(b, part, target(row, col), count, value);
    });
  });
}

function storeVector(context: KernelContext, src: StorageId, view: View): void {
  const { b } = context;
  const place = context.place(src);
  const part = context.partOf(view);
  const [row0, col0] = [context.index(view.row), context.index(view.col)];
  const { rows } = context.bounds(view, place.cols, 1);
  if (part.rowStride === 1 && place.rank === 1) {
    forVectors(b, place.cols, rows, (row, count) => {
      if (count === 0) return;
      write(b, part, b.add(row0, row), count, b.call("laspc_load", context.element(place, 0, row)));
    });
    return;
  }
  b.loop(0, rows, 1, "row", (row) => {
    const index = b.add(b.multiply(b.add(row0, row), part.rowStride), col0);
    const value = b.splat(b.loadFloat(context.element(place, 0, row)));
    write(b, part, index, 1, value);
  });
}
