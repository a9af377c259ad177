/**
 * dst[row, col] = expr, 16 columns at a time (a vector: 16 rows).
 *
 * What does not change from element to element is computed where it last changes: what depends on no
 * index before the loops, what depends on the row before the loop over columns.
 *
 *   map s = mul(s, exp(sub(g@row, g@col)))      for row: g_row = splat g[row]
 *                                                 for col by 16: s = s * exp(g_row - g[col ...])
 */
import type { Expr, MapStmt } from "../../compiler/tile/ir.ts";
import { assertNever } from "../../compiler/support/never.ts";
import { type Int, type Value, lanes } from "./builder.ts";
import type { KernelContext, Place } from "./context.ts";
import { applyFn } from "./ops.ts";

/** Where a value is known: before the loops, in a row, or only in 16 elements of it. */
const levels = { point: 0, row: 1, vector: 2 } as const;
type Level = (typeof levels)[keyof typeof levels];

export function emitMap(context: KernelContext, { dst, expr }: MapStmt): void {
  const place = context.place(dst);
  const map = new MapEmitter(context, place);
  map.prepare(expr, levels.point);
  context.b.loop(0, place.rows, 1, "row", (row) => {
    map.row = row;
    map.prepare(expr, levels.row);
    context.b.loop(0, place.cols, lanes, "col", (col) => {
      map.col = col;
      const value = map.value(expr);
      if (place.rank === 0)
        context.b.storeFloat(context.b.call("laspc_scalar", value), place.pointer);
      else context.b.call("laspc_store", value, context.element(place, row, col));
    });
  });
}

class MapEmitter {
  /** Where the code being written is; known once the loops around it are open. */
  row: Int = 0;
  col: Int = 0;
  private readonly context: KernelContext;
  private readonly place: Place;
  private readonly levelOf = new Map<Expr, Level>();
  /** What is computed already, further out or just before. */
  private readonly known = new Map<Expr, Value>();

  constructor(context: KernelContext, place: Place) {
    this.context = context;
    this.place = place;
  }

  /** Computes every largest part of `expr` that is known at `level`. */
  prepare(expr: Expr, level: Level): void {
    const own = this.level(expr);
    if (own <= level) this.value(expr);
    else if (expr.kind === "call") for (const arg of expr.args) this.prepare(arg, level);
  }

  /** Lanes run along the columns of a tile, but along the rows of a vector. */
  private get laneAxis(): "row" | "col" {
    return this.place.rank === 1 ? "row" : "col";
  }

  private level(expr: Expr): Level {
    const known = this.levelOf.get(expr);
    if (known !== undefined) return known;
    const level = this.findLevel(expr);
    this.levelOf.set(expr, level);
    return level;
  }

  private findLevel(expr: Expr): Level {
    const along = (axis: "row" | "col"): Level => {
      if (this.place.rank === 0) return levels.point;
      return axis === this.laneAxis ? levels.vector : levels.row;
    };
    switch (expr.kind) {
      case "const":
      case "runtime":
        return levels.point;
      case "read":
        if (expr.at === "scalar") return levels.point;
        return expr.at === "tile" ? levels.vector : along(expr.at);
      case "index":
      case "inside":
        return along(expr.axis);
      case "call":
        return Math.max(0, ...expr.args.map((arg) => this.level(arg))) as Level;
      default:
        return assertNever(expr);
    }
  }

  value(expr: Expr): Value {
    const known = this.known.get(expr);
    if (known) return known;
    const value = this.compute(expr);
    this.known.set(expr, value);
    return value;
  }

  private compute(expr: Expr): Value {
    const { context } = this;
    const { b } = context;
    switch (expr.kind) {
      case "const":
        return b.splat(expr.value);
      case "runtime":
        return b.splat(b.toFloat(expr.scalar === "T" ? context.tokens : context.totalTokens));
      case "read":
        return this.read(expr);
      case "index": {
        const start = context.index(expr.start);
        const first = expr.global ? b.add(start, context.runtime("token_offset")) : start;
        const [along, isLane] = this.along(expr.axis);
        const base = b.splat(b.toFloat(b.add(first, along)));
        return isLane ? b.instructions.CreateFAdd(base, b.call("laspc_lanes")) : base;
      }
      case "inside": {
        const limit = expr.limit === "T" ? context.tokens : expr.limit;
        const [along, isLane] = this.along(expr.axis);
        const place = b.add(context.index(expr.start), along);
        if (isLane) return b.call("laspc_inside", b.subtract(limit, place));
        return b.splat(b.isLess(place, limit));
      }
      case "call":
        return applyFn(
          b,
          expr.fn,
          expr.args.map((arg) => this.value(arg)),
        );
      default:
        return assertNever(expr);
    }
  }

  /** The index along an axis, and whether lanes run along it. */
  private along(axis: "row" | "col"): readonly [Int, boolean] {
    if (this.place.rank === 0) return [0, false];
    return axis === this.laneAxis ? [this.col, true] : [this.row, false];
  }

  private read(expr: Expr & { kind: "read" }): Value {
    const { context } = this;
    const { b } = context;
    const source = context.place(expr.storage);
    if (expr.at === "tile")
      return b.call("laspc_load", context.element(source, this.row, this.col));
    if (expr.at === "scalar") return b.splat(b.loadFloat(source.pointer));
    const [along, isLane] = this.along(expr.at);
    const at = context.element(source, 0, along);
    return isLane ? b.call("laspc_load", at) : b.splat(b.loadFloat(at));
  }
}
