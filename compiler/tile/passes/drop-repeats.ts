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
 * Where recompute-tiles filled a tile anew since registers were few, a role has more of them, and only some of the reads.
 * Tiles are held on where `fits` says that registers suffice.
 *
 * Needs: divide-roles, if it runs. Guarantees: the same values.
 */
import type { Pass } from "../../support/pass.ts";
import { readsOf, writesOf } from "../accesses.ts";
import type { Kernel, Stmt, StorageId, TileProgram } from "../ir.ts";

/** `fits`: does a kernel's every role have the registers for its tiles? */
export const dropRepeats = (fits: (kernel: Kernel) => boolean): Pass<TileProgram> => ({
  name: "drop-repeats",
  summary: "do not fill a tile with what it holds",
  run: (program) => {
    const kernels = program.kernels.map((kernel) => dropped(kernel, fits));
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  },
});

function dropped(kernel: Kernel, fits: (kernel: Kernel) => boolean): Kernel {
  const registers = new Set(
    kernel.storages.flatMap(({ id, memory, shape }) =>
      memory === "register" && shape.length === 2 ? [id] : [],
    ),
  );
  const inKernel = (from: Stmt, body: readonly Stmt[], to: readonly Stmt[]): Stmt[] =>
    body.map((stmt) => (stmt === from && stmt.kind === "loop" ? { ...stmt, body: to } : stmt));
  let found = kernel;
  for (const loop of kernel.body) {
    if (loop.kind !== "loop") continue;
    let now: Stmt & { kind: "loop" } = loop;
    const keep = (body: readonly Stmt[]) => {
      const other = { ...found, body: inKernel(now, found.body, body) };
      [found, now] = [other, other.body[found.body.indexOf(now)] as typeof now];
    };
    const alive = now.body.filter((stmt, at) => !isDead(now.body, at, stmt, registers));
    if (alive.length < now.body.length) keep(alive);
    for (let at = now.body.length - 1; at >= 0; at--) {
      if (!isRepeat(now.body, at, registers)) continue;
      const body = now.body.filter((_, i) => i !== at);
      if (fits({ ...found, body: inKernel(now, found.body, body) })) keep(body);
    }
  }
  return found;
}

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
    if (writesOf(other).includes(dst)) return filled(other, registers) === dst && isOf(other, stmt);
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
    if (writes.includes(dst)) return isOf(other, stmt) && textOf(other) === textOf(stmt);
    if (writes.some((id) => reads.includes(id))) return false;
  }
  return false;
}

function isOf(other: Stmt, { role }: Stmt): boolean {
  return other.role === role;
}

function textOf(stmt: Stmt): string {
  return JSON.stringify({ ...stmt, note: null });
}
