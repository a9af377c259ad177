/**
 * Insert-barriers: threads wait for each other exactly where shared memory changes hands.
 *
 *   copy lhs_slab = q[:, s..s+32]^T          copy lhs_slab = q[:, s..s+32]^T
 *   mma scores += lhs_slab^T @ rhs_slab  =>  barrier
 *                                            mma scores += lhs_slab^T @ rhs_slab
 *
 * A barrier goes before a statement that reads what was written, or writes what was read or written,
 * since the last one. A loop's body is looked at twice, the second time with what its own end leaves
 * behind, so that one iteration cannot overtake the one before.
 *
 * Needs: stage-operands. Guarantees: no two threads touch one shared element, one of them writing,
 * without a barrier between. What `reduce` and `cumsum` do inside is their own business (tile/ir.ts).
 */
import type { Pass } from "../../support/pass.ts";
import type { Expr, Kernel, Stmt, StorageId, TileProgram } from "../ir.ts";

export const insertBarriers: Pass<TileProgram> = {
  name: "insert-barriers",
  summary: "put barriers where shared memory changes hands",
  run: (program) => {
    const kernels = program.kernels.map(withBarriers);
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  },
};

/** Shared storages touched since the last barrier. */
interface Pending {
  readonly reads: Set<StorageId>;
  readonly writes: Set<StorageId>;
}

function withBarriers(kernel: Kernel): Kernel {
  const shared = new Set(
    kernel.storages.filter((storage) => storage.memory === "shared").map((storage) => storage.id),
  );
  if (shared.size === 0) return kernel;
  const body = guard(kernel.body, { reads: new Set(), writes: new Set() }, shared);
  return count(body) === count(kernel.body) ? kernel : { ...kernel, body };
}

/** The statements with barriers; `pending` is left as it stands after them. */
function guard(stmts: readonly Stmt[], pending: Pending, shared: ReadonlySet<StorageId>): Stmt[] {
  return stmts.flatMap((stmt): Stmt[] => {
    if (stmt.kind === "barrier" || stmt.kind === "wait") {
      clear(pending);
      return [stmt];
    }
    if (stmt.kind === "loop") {
      // First round: what does the body leave pending? Second round: guarded against it.
      const around: Pending = { reads: new Set(pending.reads), writes: new Set(pending.writes) };
      guard(stmt.body, around, shared);
      for (const id of around.reads) pending.reads.add(id);
      for (const id of around.writes) pending.writes.add(id);
      const before: Pending = { reads: new Set(pending.reads), writes: new Set(pending.writes) };
      const body = guard(stmt.body, pending, shared);
      // A loop over no tokens clears nothing.
      for (const id of before.reads) pending.reads.add(id);
      for (const id of before.writes) pending.writes.add(id);
      return [{ ...stmt, body }];
    }
    const { reads, writes } = touched(stmt);
    const mine = (ids: readonly StorageId[]) => ids.filter((id) => shared.has(id));
    const hazard =
      mine(reads).some((id) => pending.writes.has(id)) ||
      mine(writes).some((id) => pending.writes.has(id) || pending.reads.has(id));
    if (hazard) clear(pending);
    for (const id of mine(reads)) pending.reads.add(id);
    for (const id of mine(writes)) pending.writes.add(id);
    return hazard ? [{ kind: "barrier", note: stmt.note }, stmt] : [stmt];
  });
}

function clear(pending: Pending): void {
  pending.reads.clear();
  pending.writes.clear();
}

/** The storages a statement reads and writes. */
function touched(stmt: Stmt): { reads: StorageId[]; writes: StorageId[] } {
  switch (stmt.kind) {
    case "load":
    case "copy-async":
      return { reads: [], writes: [stmt.dst] };
    case "store":
      return { reads: [stmt.src], writes: [] };
    case "copy":
      return { reads: [stmt.src.storage], writes: [stmt.dst.storage] };
    case "map":
      return { reads: [...readsOf(stmt.expr)], writes: [stmt.dst] };
    case "mma":
      return { reads: [stmt.lhs.storage, stmt.rhs.storage], writes: [stmt.dst.storage] };
    case "reduce": {
      const scratch = stmt.scratch === null ? [] : [stmt.scratch];
      return { reads: [stmt.src], writes: [stmt.dst, ...scratch] };
    }
    case "solve":
      return { reads: [stmt.matrix, stmt.dst], writes: [stmt.dst] };
    case "cumsum":
    case "rotate-half":
      return { reads: [stmt.src], writes: [stmt.dst] };
    case "wait":
    case "barrier":
    case "loop":
      return { reads: [], writes: [] };
  }
}

function* readsOf(expr: Expr): Generator<StorageId> {
  if (expr.kind === "read") yield expr.storage;
  if (expr.kind === "call") for (const arg of expr.args) yield* readsOf(arg);
}

function count(stmts: readonly Stmt[]): number {
  return stmts.reduce((sum, stmt) => sum + 1 + (stmt.kind === "loop" ? count(stmt.body) : 0), 0);
}
