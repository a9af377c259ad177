/**
 * Drop-repeats: a tile that still holds what it is filled with again is not filled again, nor one that nobody reads before
 * it is filled with something else.
 *
 *   @0 copy k = k_bf16                     @0 copy k = k_bf16
 *   @0 copy k = k_bf16                     @0 map x = exp(k)
 *   @0 map x = exp(k)                =>    @0 map y = mul(k, z)
 *   @0 copy k = k_bf16
 *   @0 map y = mul(k, z)
 *
 * A shared tile that holds what another does, handed to the other role and a factor of a product, say, is one:
 *
 *   @0 copy S_handed = S                   @0 copy S_handed = S
 *   @0 signal 0                            @0 signal 0
 *   @0 copy S_bf16 = S               =>    @0 mma x += q_bf16 @ S_handed
 *   @0 mma x += q_bf16 @ S_bf16
 *
 * Where recompute-tiles filled a tile anew since registers were few, a role has more of them, and only some of the reads.
 * Tiles are held on where `fits` says that registers suffice.
 *
 * Needs: divide-roles, if it runs. Guarantees: the same values.
 */
import type { Pass } from "../../support/pass.ts";
import { onStorages, onlyUsed, readsOf, writesOf } from "../accesses.ts";
import type { Copy, Kernel, Loop, Stmt, Storage, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

/** `fits`: does a kernel's every role have the registers for its tiles? */
export const dropRepeats = (fits: (kernel: Kernel) => boolean): Pass<TileProgram> => ({
  name: "drop-repeats",
  summary: "do not fill a tile with what it holds",
  run: onKernels((kernel) => dropped(kernel, fits)),
});

function dropped(kernel: Kernel, fits: (kernel: Kernel) => boolean): Kernel {
  const registers = new Set(
    kernel.storages.flatMap(({ id, memory, shape }) =>
      memory === "register" && shape.length === 2 ? [id] : [],
    ),
  );
  let found = inLoops(kernel, (body) => {
    const alive = body.filter((stmt, at) => !isDead(body, at, stmt, registers));
    return alive.length === body.length ? body : alive;
  });
  for (const place of kernel.body.keys()) {
    const loop = found.body[place]!;
    if (loop.kind !== "loop") continue;
    // From the end, so that numbers of those in front stay.
    for (let at = loop.body.length - 1; at >= 0; at--) {
      const now = found.body[place] as Loop;
      if (!isRepeat(now.body, at, registers)) continue;
      const other = { ...now, body: now.body.filter((_, i) => i !== at) };
      const less = { ...found, body: found.body.map((stmt) => (stmt === now ? other : stmt)) };
      if (fits(less)) found = less;
    }
  }
  const shared = inLoops(found, (body) => withOneTile(body, kernel.storages));
  return shared === found ? found : onlyUsed(shared);
}

function inLoops(kernel: Kernel, change: (body: readonly Stmt[]) => readonly Stmt[]): Kernel {
  const body = kernel.body.map((stmt) => {
    if (stmt.kind !== "loop") return stmt;
    const changed = change(stmt.body);
    return changed === stmt.body ? stmt : { ...stmt, body: changed };
  });
  return body.every((stmt, i) => stmt === kernel.body[i]) ? kernel : { ...kernel, body };
}

// --- shared tiles ------------------------------------------------------------------------------

/** Of two tiles that are filled with the same registers the first stands for both. */
function withOneTile(body: readonly Stmt[], storages: readonly Storage[]): readonly Stmt[] {
  let list = body;
  for (const second of body) {
    const at = list.indexOf(second);
    if (second.kind !== "copy" || !isStaging(second, storages)) continue;
    const first = list
      .slice(0, at)
      .findLast((one) => one.kind === "copy" && isTwin(one, second, storages));
    if (first?.kind !== "copy") continue;
    const [kept, dropped] = [first.dst.storage, second.dst.storage];
    const writes = (id: StorageId) => list.filter((stmt) => writesOf(stmt).includes(id)).length;
    const between = list.slice(list.indexOf(first) + 1, at);
    const isChanged = between.some((stmt) => writesOf(stmt).includes(second.src.storage));
    // Where either is filled more than once in a turn, who reads what would have to be known.
    if (isChanged || writes(kept) > 1 || writes(dropped) > 1) continue;
    list = list
      .filter((stmt) => stmt !== second)
      .map((stmt) =>
        readsOf(stmt).includes(dropped)
          ? onStorages(stmt, (id) => (id === dropped ? kept : id))
          : stmt,
      );
  }
  return list;
}

/** Does it fill a 16-bit tile from registers? */
function isStaging({ dst, src, transpose }: Copy, storages: readonly Storage[]): boolean {
  const [to, from] = [storages[dst.storage]!, storages[src.storage]!];
  return !transpose && to.memory === "shared" && to.dtype !== "f32" && from.memory === "register";
}

function isTwin(one: Copy, other: Copy, storages: readonly Storage[]): boolean {
  return (
    isStaging(one, storages) &&
    one.role === other.role &&
    one.src.storage === other.src.storage &&
    one.dst.storage !== other.dst.storage &&
    storages[one.dst.storage]!.dtype === storages[other.dst.storage]!.dtype
  );
}

// --- registers ---------------------------------------------------------------------------------

/** What fills a whole register tile with something that can be had again. */
function filled(stmt: Stmt, registers: ReadonlySet<StorageId>): StorageId | null {
  if (stmt.kind !== "copy" && stmt.kind !== "map" && stmt.kind !== "cumsum") return null;
  const [dst] = writesOf(stmt) as [StorageId];
  return registers.has(dst) && !readsOf(stmt).includes(dst) ? dst : null;
}

/** Is the tile filled again behind this, by the same role, before anything reads it? */
function isDead(
  body: readonly Stmt[],
  at: number,
  stmt: Stmt,
  registers: ReadonlySet<StorageId>,
): boolean {
  const dst = filled(stmt, registers);
  if (dst === null) return false;
  for (const other of body.slice(at + 1)) {
    if (readsOf(other).includes(dst) || other.kind === "loop") return false;
    if (other.kind === "mma" && other.dst.storage === dst) return false;
    if (writesOf(other).includes(dst)) {
      return filled(other, registers) === dst && other.role === stmt.role;
    }
  }
  return false;
}

/** Was the tile filled with the same before, and neither it nor what it is made of changed since? */
function isRepeat(body: readonly Stmt[], at: number, registers: ReadonlySet<StorageId>): boolean {
  const stmt = body[at]!;
  const dst = filled(stmt, registers);
  if (dst === null) return false;
  const reads = readsOf(stmt);
  for (const other of body.slice(0, at).reverse()) {
    if (other.kind === "loop") return false;
    const writes = writesOf(other);
    if (writes.includes(dst)) return textOf(other) === textOf(stmt);
    if (writes.some((id) => reads.includes(id))) return false;
  }
  return false;
}

function textOf(stmt: Stmt): string {
  return JSON.stringify({ ...stmt, note: null });
}
