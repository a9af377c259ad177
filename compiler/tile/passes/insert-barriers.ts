/**
 * Insert-barriers: threads wait for each other exactly where shared memory changes hands.
 *
 *   copy lhs_slab = q[:, s..s+32]^T          copy lhs_slab = q[:, s..s+32]^T
 *   mma scores += lhs_slab^T @ rhs_slab  =>  barrier
 *                                            mma scores += lhs_slab^T @ rhs_slab
 *
 * A barrier goes before a statement that reads what was written, or writes what was read or written,
 * since the last one, unless both are threads at their own elements of a vector. A loop's body is looked at twice, the second time with what its own end leaves
 * behind, so that one iteration cannot overtake the one before.
 *
 * In a kernel with roles the threads of each wait for one another alone.
 *
 * Needs: stage-operands. Guarantees: no two threads touch one shared element, one of them writing,
 * without a barrier between. What `reduce` and `cumsum` do inside is their own business (tile/ir.ts).
 */
import type { Pass } from "../../support/pass.ts";
import { ofRole, readsOf, writesOf } from "../accesses.ts";
import type { Kernel, Stmt, Storage, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

export const insertBarriers: Pass<TileProgram> = {
  name: "insert-barriers",
  summary: "put barriers where shared memory changes hands",
  run: onKernels(withBarriers),
};

/**
 * Shared storages touched since the last barrier. Elements of a vector that each thread touches only for
 * itself, always the same ones, are told apart: among those nobody waits.
 */
interface Pending {
  readonly reads: Set<StorageId>;
  readonly writes: Set<StorageId>;
  readonly ownReads: Set<StorageId>;
  readonly ownWrites: Set<StorageId>;
}

const none = (): Pending => ({
  reads: new Set(),
  writes: new Set(),
  ownReads: new Set(),
  ownWrites: new Set(),
});

function withBarriers(kernel: Kernel): Kernel {
  const shared = new Set(
    kernel.storages.filter((storage) => storage.memory === "shared").map((storage) => storage.id),
  );
  if (shared.size === 0) return kernel;
  const body =
    kernel.roles === undefined
      ? guard(kernel.body, none(), kernel.storages)
      : withRoles(kernel, kernel.roles.length);
  return count(body) === count(kernel.body) ? kernel : { ...kernel, body };
}

/** Each role waits for its own threads, as if there were no other; see divide-roles. */
function withRoles({ body, storages }: Kernel, roles: number): Stmt[] {
  const guarded = Array.from({ length: roles }, (_, role) =>
    behindBarriers(guard(ofRole(body, role), none(), storages)),
  );
  const inBody = (stmts: readonly Stmt[], isTurn: boolean): Stmt[] => {
    // What a turn copies to where the one before read it, all must be done with.
    const first = isTurn
      ? stmts.find((one) => one.kind === "copy-async" && one.turns === "all" && one.ahead === 0)
      : null;
    return stmts.flatMap((stmt): Stmt[] => {
      const { note } = stmt;
      if (stmt === first) return [{ kind: "barrier", note }, stmt];
      if (stmt.kind === "loop") return [{ ...stmt, body: inBody(stmt.body, true) }];
      if (stmt.kind === "copy-async" && isTurn) return [stmt];
      const own = guarded.flatMap((set, role): Stmt[] =>
        set.has(stmt) ? [{ kind: "barrier", role, note }] : [],
      );
      return [...own, stmt];
    });
  };
  return inBody(body, false);
}

function behindBarriers(stmts: readonly Stmt[]): ReadonlySet<Stmt> {
  return new Set(
    stmts.flatMap((stmt, i): Stmt[] => [
      ...(i > 0 && stmts[i - 1]!.kind === "barrier" ? [stmt] : []),
      ...(stmt.kind === "loop" ? behindBarriers(stmt.body) : []),
    ]),
  );
}

/** The statements with barriers; `pending` is left as it stands after them. */
function guard(
  stmts: readonly Stmt[],
  pending: Pending,
  storages: readonly Storage[],
  outside: Pending = pending,
): Stmt[] {
  return stmts.flatMap((stmt): Stmt[] => {
    if (stmt.kind === "barrier" || stmt.kind === "wait" || stmt.kind === "await") {
      clear(pending);
      return [stmt];
    }
    // In the place of a later turn only turns before this one's wait have read.
    if (stmt.kind === "copy-async" && stmt.ahead > 0) return [stmt];
    if (stmt.kind === "loop") {
      // First round: what does the body leave pending? Second round: guarded against it.
      const [outside, around] = [copyOf(pending), copyOf(pending)];
      guard(stmt.body, around, storages, outside);
      addTo(pending, around);
      const before = copyOf(pending);
      const body = guard(stmt.body, pending, storages, outside);
      // A loop over no tokens clears nothing.
      addTo(pending, before);
      return [{ ...stmt, body }];
    }
    const touched = accessesOf(stmt, storages);
    // In a loop's first turn its own end has left nothing behind.
    const since = stmt.kind === "copy-async" && stmt.turns === "first" ? outside : pending;
    const hazard = touched.some((access) => isHazard(access, since));
    if (hazard) clear(pending);
    for (const { id, isWrite, isOwn } of touched) {
      const [own, all] = isWrite
        ? [pending.ownWrites, pending.writes]
        : [pending.ownReads, pending.reads];
      (isOwn ? own : all).add(id);
    }
    // A fold of a tile ends with a barrier of its own.
    if (isFold(stmt, storages)) clear(pending);
    return hazard ? [{ kind: "barrier", note: stmt.note }, stmt] : [stmt];
  });
}

interface Access {
  readonly id: StorageId;
  readonly isWrite: boolean;
  /** Does each thread touch only elements of a vector that are its own? */
  readonly isOwn: boolean;
}

function isHazard({ id, isWrite, isOwn }: Access, since: Pending): boolean {
  if (since.writes.has(id) || (!isOwn && since.ownWrites.has(id))) return true;
  return isWrite && (since.reads.has(id) || (!isOwn && since.ownReads.has(id)));
}

function accessesOf(stmt: Stmt, storages: readonly Storage[]): Access[] {
  const isVector = (id: StorageId) => storages[id]!.shape.length === 1;
  // A vector's statement about vectors: a thread has the same rows of all. A tile's reads across them.
  const byRow =
    stmt.kind === "map" ||
    stmt.kind === "load" ||
    stmt.kind === "copy-async" ||
    stmt.kind === "join"
      ? isVector(stmt.dst)
      : stmt.kind === "store" && isVector(stmt.src);
  const access = (isWrite: boolean) => (id: StorageId) => ({
    id,
    isWrite,
    isOwn: byRow && isVector(id),
  });
  // The result of a fold is written behind a barrier of its own.
  const isLate = (id: StorageId) =>
    stmt.kind === "reduce" && isFold(stmt, storages) && id === stmt.dst;
  return [
    ...readsOf(stmt).map(access(false)),
    ...writesOf(stmt)
      .filter((id) => !isLate(id))
      .map(access(true)),
  ].filter(({ id }) => storages[id]!.memory === "shared");
}

function isFold(stmt: Stmt, storages: readonly Storage[]): boolean {
  return stmt.kind === "reduce" && storages[stmt.src]!.shape.length === 2;
}

function copyOf({ reads, writes, ownReads, ownWrites }: Pending): Pending {
  return {
    reads: new Set(reads),
    writes: new Set(writes),
    ownReads: new Set(ownReads),
    ownWrites: new Set(ownWrites),
  };
}

function addTo(pending: Pending, more: Pending): void {
  for (const kind of ["reads", "writes", "ownReads", "ownWrites"] as const) {
    for (const id of more[kind]) pending[kind].add(id);
  }
}

function clear(pending: Pending): void {
  for (const ids of Object.values(pending)) ids.clear();
}

function count(stmts: readonly Stmt[]): number {
  return stmts.reduce((sum, stmt) => sum + 1 + (stmt.kind === "loop" ? count(stmt.body) : 0), 0);
}
