/** Which elements of a register tile are ever read: behind a mask that is known beforehand not all of them. */
import { evaluateFn } from "../tensor/functions.ts";
import { flatten, readsOf } from "./accesses.ts";
import type { Expr, Kernel, StorageId } from "./ir.ts";

/** Is the element at a row and column of a tile read by any statement? */
export type IsRead = (row: number, col: number) => boolean;

/**
 * The masks are selections between the tile and another value by rows and columns alone, as the squares of a chunk
 * and its triangle are. Null: all elements are read.
 */
export function placesRead(kernel: Kernel, tile: StorageId): IsRead | null {
  const conditions: Expr[] = [];
  for (const stmt of flatten(kernel.body)) {
    if (stmt.kind === "loop" || !readsOf(stmt).includes(tile)) continue;
    if (stmt.kind !== "map" || !collect(stmt.expr, tile, conditions)) return null;
  }
  return (row, col) => conditions.some((condition) => known(condition, row, col) !== 0);
}

/** Collects under which conditions an expression reads the tile; false: also under none. */
function collect(expr: Expr, tile: StorageId, conditions: Expr[]): boolean {
  if (expr.kind === "read") return expr.storage !== tile;
  if (expr.kind !== "call") return true;
  const [condition, chosen, other] = expr.args;
  const isMask =
    expr.fn === "select" && chosen!.kind === "read" && known(condition!, 0, 0) !== null;
  if (isMask && chosen.storage === tile) {
    conditions.push(condition!);
    return collect(other!, tile, conditions);
  }
  return expr.args.every((arg) => collect(arg, tile, conditions));
}

/** The value at a place of an expression of rows, columns and numbers; null: it is none. */
function known(expr: Expr, row: number, col: number): number | null {
  switch (expr.kind) {
    case "const":
      return expr.value;
    case "index":
      if (expr.start.base !== null || expr.global) return null;
      return expr.start.offset + (expr.axis === "row" ? row : col);
    case "call": {
      const args = expr.args.map((arg) => known(arg, row, col));
      return args.every((arg) => arg !== null) ? evaluateFn(expr.fn, args) : null;
    }
    default:
      return null;
  }
}
