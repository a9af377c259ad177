/**
 * Gather-products: products that do not need each other's sums stand together, so that their factors are staged behind
 * one barrier.
 *
 *   copy a_bf16 = a                        copy a_bf16 = a
 *   mma x += a_bf16 @ a_bf16^T             copy a_bf16_2 = b
 *   copy a_bf16 = b                  =>    mma x += a_bf16 @ a_bf16^T
 *   mma y += a_bf16 @ a_bf16^T             mma y += a_bf16_2 @ a_bf16_2^T
 *
 * In loops that go from chunk to chunk each barrier is a time in which a role's warps wait for the slowest and nothing
 * is computed; between barriers a warp has the work of several products to fill its gaps with. A tile that is staged
 * more than once in a turn gets a place for each time, as far as the shared memory has room beside a turn's copies.
 *
 * What concerns vectors alone comes first in loops: with roles, a turn's own tiles are under way in that time.
 *
 * Needs: place-operands. Guarantees: the same values, sums of products in the same order.
 */
import type { Pass } from "../../support/pass.ts";
import { clash, hasLoop, newName, onStorages, readsOf, writesOf } from "../accesses.ts";
import type { Kernel, Loop, Stmt, Storage, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import type { SharedMemory } from "./pipeline-copies.ts";

export const gatherProducts = (memory: SharedMemory): Pass<TileProgram> => ({
  name: "gather-products",
  summary: "let products stand together, with their factors behind one barrier",
  run: onKernels((kernel) => gathered(kernel, memory)),
});

function gathered(kernel: Kernel, memory: SharedMemory): Kernel {
  const { limitBytes, bytesOf } = memory;
  const storages = [...kernel.storages];
  const shared = storages.filter((storage) => storage.memory === "shared");
  const used = shared.reduce((bytes, storage) => bytes + bytesOf(storage), 0);
  // Of kernels without a loop more than one block may stand on a processor, if they are small.
  const isAlone = hasLoop(kernel) || used > limitBytes / 2;
  let isChanged = false;
  const inList = (stmts: readonly Stmt[]): readonly Stmt[] => {
    const inner = stmts.map((stmt) => (stmt.kind === "loop" ? inLoop(stmt) : stmt));
    const apart = isAlone ? withOwnTiles(inner, storages, memory) : inner;
    const body = together(isAlone ? vectorsFirst(apart, storages) : apart, storages);
    isChanged ||= body.some((stmt, i) => stmt !== stmts[i]);
    return body;
  };
  const inLoop = (loop: Loop): Loop => {
    const body = inList(loop.body);
    return body.every((stmt, i) => stmt === loop.body[i]) ? loop : { ...loop, body };
  };
  const body = inList(kernel.body);
  return isChanged ? { ...kernel, storages, body } : kernel;
}

// --- a place for each time --------------------------------------------------------------------

/** The list with tiles that are staged anew in new storages, which `storages` gets, while there is room. */
function withOwnTiles(
  body: readonly Stmt[],
  storages: Storage[],
  { limitBytes, bytesOf }: SharedMemory,
): readonly Stmt[] {
  const sum = (some: readonly Storage[]) => some.reduce((bytes, one) => bytes + bytesOf(one), 0);
  const copied = body.flatMap((stmt) => (stmt.kind === "copy-async" ? [storages[stmt.dst]!] : []));
  const used = sum(storages.filter(({ memory }) => memory === "shared")) + sum(copied);
  let free = limitBytes - used;
  const now = new Map<StorageId, StorageId>();
  const staged = new Set<StorageId>();
  return body.map((stmt) => {
    const [dst] = stmt.kind === "copy" ? [stmt.dst.storage] : [];
    const first = dst === undefined ? undefined : storages[dst]!;
    if (first?.memory === "shared" && first.dtype !== "f32") {
      if (staged.has(first.id) && free >= bytesOf(first)) {
        free -= bytesOf(first);
        const own = {
          ...first,
          id: storages.length as StorageId,
          name: newName(first.name, storages),
        };
        storages.push(own);
        now.set(first.id, own.id);
      }
      staged.add(first.id);
    }
    const isMoved = [...readsOf(stmt), ...writesOf(stmt)].some((id) => now.has(id));
    return isMoved ? onStorages(stmt, (id) => now.get(id) ?? id) : stmt;
  });
}

// --- standing together ------------------------------------------------------------------------

/**
 * Each product, the last one first, moves down to the next one of its role, and what clears its sum with it. Running sums of
 * vectors, of which a warp has each, move up to the one before.
 */
function together(body: readonly Stmt[], storages: readonly Storage[]): readonly Stmt[] {
  const list = [...body];
  const sumsVector = (stmt: Stmt) =>
    stmt.kind === "cumsum" && storages[stmt.dst]!.shape.length === 1;
  for (let at = list.length - 1; at >= 0; at--) {
    if (list[at]!.kind === "mma") move(list, at, (stmt) => stmt.kind === "mma");
  }
  for (let at = list.length - 1; at >= 0; at--) {
    const stmt = list[at]!;
    if (stmt.kind !== "map" || stmt.expr.kind !== "const") continue;
    move(list, at, (one) => one.kind === "mma" && one.dst.storage === stmt.dst);
  }
  list.reverse();
  for (let at = list.length - 1; at >= 0; at--) {
    if (sumsVector(list[at]!)) move(list, at, sumsVector);
  }
  return list.reverse();
}

/** Vectors are computed as early as can be: of little work, while tiles are still under way. */
function vectorsFirst(body: readonly Stmt[], storages: readonly Storage[]): readonly Stmt[] {
  const list = [...body];
  for (let at = 1; at < list.length; at++) {
    if (isOfVectors(list[at]!, storages)) lift(list, at, (stmt) => isOfVectors(stmt, storages));
  }
  return list;
}

/** Does it compute a vector from such, and from numbers? */
function isOfVectors(stmt: Stmt, storages: readonly Storage[]): boolean {
  if (stmt.kind !== "map" && stmt.kind !== "cumsum") return false;
  const rank = (id: StorageId) => storages[id]!.shape.length;
  return rank(stmt.dst) === 1 && readsOf(stmt).every((id) => rank(id) <= 1);
}

/** Moves a statement up, in front of all of its role that it does not need and that `isKept` does not hold for. */
function lift(list: Stmt[], at: number, isKept: (stmt: Stmt) => boolean): void {
  const stmt = list[at]!;
  let to = at;
  for (let before = at - 1; before >= 0; before--) {
    const other = list[before]!;
    if (isBeside(other, stmt)) continue;
    if (isKept(other) || isFixed(other) || clash(stmt, other)) break;
    to = before;
  }
  list.splice(to, 0, ...list.splice(at, 1));
}

/** Moves a statement down to stand before the next one of its role that `isThere` holds for, if nothing between forbids it. */
function move(list: Stmt[], at: number, isThere: (stmt: Stmt) => boolean): void {
  const stmt = list[at]!;
  for (let next = at + 1; next < list.length; next++) {
    const other = list[next]!;
    if (isBeside(other, stmt)) continue;
    if (isThere(other)) {
      list.splice(next - 1, 0, ...list.splice(at, 1));
      return;
    }
    if (isFixed(other) || clash(stmt, other)) return;
  }
}

/** Are they two roles' statements? */
function isBeside({ role }: Stmt, stmt: Stmt): boolean {
  return role !== undefined && stmt.role !== undefined && role !== stmt.role;
}

/** Is it where threads wait for others, or many statements? */
function isFixed({ kind }: Stmt): boolean {
  return ["wait", "await", "signal", "barrier", "loop"].includes(kind);
}
