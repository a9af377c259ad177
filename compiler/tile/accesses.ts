/** What a statement reads and writes: the storages, whatever their memory. */
import type { Expr, Stmt, StorageId } from "./ir.ts";

export function readsOf(stmt: Stmt): readonly StorageId[] {
  switch (stmt.kind) {
    case "store":
      return [stmt.src];
    case "copy":
      return [stmt.src.storage];
    case "map":
      return [...readIn(stmt.expr)];
    case "mma":
      return [stmt.lhs.storage, stmt.rhs.storage];
    case "reduce":
    case "rotate-half":
      return [stmt.src];
    case "cumsum":
      return [stmt.src, ...(stmt.sums ? [stmt.sums.storage] : [])];
    case "solve":
      return [stmt.matrix, stmt.dst];
    case "invert":
      return [stmt.dst];
    case "loop":
      return stmt.body.flatMap(readsOf);
    case "swap":
      return [stmt.a, stmt.b];
    case "load":
    case "copy-async":
    case "wait":
    case "barrier":
      return [];
  }
}

export function writesOf(stmt: Stmt): readonly StorageId[] {
  switch (stmt.kind) {
    case "copy":
    case "mma":
      return [stmt.dst.storage];
    case "reduce":
      return [stmt.dst, ...(stmt.scratch === null ? [] : [stmt.scratch])];
    case "load":
    case "copy-async":
    case "map":
    case "cumsum":
    case "rotate-half":
    case "solve":
    case "invert":
      return [stmt.dst];
    case "swap":
      return [stmt.a, stmt.b];
    case "loop":
      return stmt.body.flatMap(writesOf);
    case "store":
    case "wait":
    case "barrier":
      return [];
  }
}

function* readIn(expr: Expr): Generator<StorageId> {
  if (expr.kind === "read") yield expr.storage;
  if (expr.kind === "call") for (const arg of expr.args) yield* readIn(arg);
}
