/** What a statement reads and writes: the storages, whatever their memory. */
import { remembered } from "../support/remembered.ts";
import type { Expr, Kernel, Stmt, Storage, StorageId, Window } from "./ir.ts";

export const readsOf: (stmt: Stmt) => readonly StorageId[] = remembered((stmt) => {
  switch (stmt.kind) {
    case "store":
      return [stmt.src];
    case "copy":
      return [stmt.src.storage];
    case "map":
      return readIn(stmt.expr);
    case "mma":
      return [stmt.lhs.storage, stmt.rhs.storage];
    case "mma-parts":
      return [stmt.lhs, stmt.rhs];
    case "reduce":
    case "fold":
    case "join":
    case "rotate-half":
    case "cumsum":
      return [stmt.src];
    case "solve":
      return [stmt.matrix, stmt.dst];
    case "invert":
      return [stmt.dst];
    case "loop":
      return stmt.body.flatMap(readsOf);
    case "load":
    case "copy-async":
    case "wait":
    case "barrier":
    case "signal":
    case "await":
      return [];
  }
});

export const writesOf: (stmt: Stmt) => readonly StorageId[] = remembered((stmt) => {
  switch (stmt.kind) {
    case "copy":
    case "mma":
      return [stmt.dst.storage];
    case "reduce":
      return [stmt.dst, ...(stmt.scratch === null ? [] : [stmt.scratch])];
    case "load":
    case "copy-async":
    case "map":
    case "mma-parts":
    case "fold":
    case "join":
    case "cumsum":
    case "rotate-half":
    case "solve":
    case "invert":
      return [stmt.dst];
    case "loop":
      return stmt.body.flatMap(writesOf);
    case "store":
    case "wait":
    case "barrier":
    case "signal":
    case "await":
      return [];
  }
});

/** Does a statement read or write a storage? */
export function touches(stmt: Stmt, id: StorageId): boolean {
  return readsOf(stmt).includes(id) || writesOf(stmt).includes(id);
}

function readIn(expr: Expr): readonly StorageId[] {
  if (expr.kind === "read") return [expr.storage];
  return expr.kind === "call" ? expr.args.flatMap(readIn) : [];
}

/** The same statement on other storages; of a loop, all it holds. */
export function onStorages<S extends Stmt>(stmt: S, other: (id: StorageId) => StorageId): S {
  const window = (own: Window): Window => ({ ...own, storage: other(own.storage) });
  const moved = (one: Stmt): Stmt => {
    switch (one.kind) {
      case "store":
        return { ...one, src: other(one.src) };
      case "copy":
        return { ...one, dst: window(one.dst), src: window(one.src) };
      case "map":
        return { ...one, dst: other(one.dst), expr: exprOn(one.expr, other) };
      case "mma":
        return { ...one, dst: window(one.dst), lhs: window(one.lhs), rhs: window(one.rhs) };
      case "mma-parts":
        return { ...one, dst: other(one.dst), lhs: other(one.lhs), rhs: other(one.rhs) };
      case "reduce": {
        const scratch = one.scratch === null ? null : other(one.scratch);
        return { ...one, dst: other(one.dst), src: other(one.src), scratch };
      }
      case "fold":
      case "join":
      case "rotate-half":
      case "cumsum":
        return { ...one, dst: other(one.dst), src: other(one.src) };
      case "solve":
        return { ...one, dst: other(one.dst), matrix: other(one.matrix) };
      case "load":
      case "copy-async":
      case "invert":
        return { ...one, dst: other(one.dst) };
      case "loop":
        return { ...one, body: one.body.map(moved) };
      case "wait":
      case "barrier":
      case "signal":
      case "await":
        return one;
    }
  };
  return moved(stmt) as S;
}

function exprOn(expr: Expr, other: (id: StorageId) => StorageId): Expr {
  if (expr.kind === "read") return { ...expr, storage: other(expr.storage) };
  if (expr.kind === "call") return { ...expr, args: expr.args.map((arg) => exprOn(arg, other)) };
  return expr;
}

/** Must two statements stay in their order? Those of different roles that share nothing need not. */
export function clash(a: Stmt, b: Stmt): boolean {
  const [reads, writes] = [readsOf(b), writesOf(b)];
  return (
    writesOf(a).some((id) => reads.includes(id) || writes.includes(id)) ||
    readsOf(a).some((id) => writes.includes(id))
  );
}

/** A name that none of the storages has: the wanted one, or with a number behind it. */
export function newName(wanted: string, storages: readonly Storage[]): string {
  const names = new Set(storages.map(({ name }) => name));
  let name = wanted;
  for (let n = 2; names.has(name); n++) name = `${wanted}_${n}`;
  return name;
}

/** A kernel without the storages that no statement touches. */
export function onlyUsed(kernel: Kernel): Kernel {
  const used = new Set(kernel.body.flatMap((stmt) => [...readsOf(stmt), ...writesOf(stmt)]));
  const kept = kernel.storages.filter(({ id }) => used.has(id));
  const places = new Map(kept.map(({ id }, i) => [id, i as StorageId]));
  return {
    ...kernel,
    storages: kept.map((storage) => ({ ...storage, id: places.get(storage.id)! })),
    body: kernel.body.map((stmt) => onStorages(stmt, (id) => places.get(id)!)),
  };
}

/** How many threads execute a statement. */
export function threadsOf({ roles, threads }: Kernel, { role }: Stmt): number {
  return role === undefined ? threads : roles![role]!;
}

/** Is it all of a tile? */
export function isWhole({ row, col, rows, cols }: Window, { shape }: Storage): boolean {
  const starts = [row, col].every(({ base, offset }) => base === null && offset === 0);
  return starts && rows === shape[0] && cols === shape[1];
}

/** The statements that a role executes. */
export function ofRole(body: readonly Stmt[], role: number): readonly Stmt[] {
  return body
    .filter((stmt) => stmt.role === undefined || stmt.role === role)
    .map((stmt) => (stmt.kind === "loop" ? { ...stmt, body: ofRole(stmt.body, role) } : stmt));
}

/** Does a kernel go from chunk to chunk, or through pieces? */
export function hasLoop({ body }: Kernel): boolean {
  return body.some(({ kind }) => kind === "loop");
}

/** Storages that a loop with this body copies to ahead: they move on at the end of its turns. */
export function copiedAhead(body: readonly Stmt[]): readonly StorageId[] {
  const copies = body.filter((stmt) => stmt.kind === "copy-async" && stmt.turns === "all");
  return copies.flatMap((stmt) => (stmt.kind === "copy-async" && stmt.ahead > 0 ? [stmt.dst] : []));
}

/** Statements and those in their loops, in order. */
export function* flatten(stmts: readonly Stmt[]): Generator<Stmt> {
  for (const stmt of stmts) {
    yield stmt;
    if (stmt.kind === "loop") yield* flatten(stmt.body);
  }
}
