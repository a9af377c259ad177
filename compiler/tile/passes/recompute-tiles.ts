/**
 * Recompute-tiles: a register tile that costs little is computed again where it is read, instead of being
 * held while products and others need the registers.
 *
 *   copy k = k_bf16                     copy k = k_bf16
 *   map k_decayed = mul(k, to_end)      map k_decayed = mul(k, to_end)
 *   mma d_v += ...                 =>   mma d_v += ...
 *   map x = mul(y, k)                   copy k = k_bf16
 *                                       map x = mul(y, k)
 *
 * Little is: numbers, places, copies of shared tiles, and sums and products of such and of vectors. Where tiles
 * do not fit, exponentials and sums down columns of such are little as well.
 *
 * Needs: place-operands. Guarantees: the same values; storages are as many as before.
 */
import type { Pass } from "../../support/pass.ts";
import type { MapFn } from "../../tensor/ir.ts";
import { flatten, hasLoop, readsOf, writesOf } from "../accesses.ts";
import { callsOnly, cheapFns } from "../cost.ts";
import type { Copy, CumSumStmt, Kernel, MapStmt, Stmt, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import { takesWhole } from "../pressure.ts";

/** `registersOf`: those that a thread needs for a kernel's tiles at once, of which there are `limit`. */
export const recomputeTiles = (
  registersOf: (kernel: Kernel) => number,
  limit: number,
): Pass<TileProgram> => ({
  name: "recompute-tiles",
  summary: "compute cheap tiles again where they are read, instead of holding them",
  run: onKernels((kernel) => {
    // Blocks without a loop run side by side, and fewer registers do not bring more of them.
    if (!hasLoop(kernel) && registersOf(kernel) <= limit / 2) return kernel;
    const little = recomputed(kernel, cheapFns, false);
    const registers = registersOf(little);
    if (registers <= limit) return little;
    const more = recomputed(kernel, new Set<MapFn>([...cheapFns, "exp"]), true);
    return registersOf(more) < registers ? more : little;
  }),
});

/** Tiles that are written once and read by many statements: what is made of them can be made again. */
function readOften({ body }: Kernel): ReadonlySet<StorageId> {
  const [readers, writers] = [new Map<StorageId, number>(), new Map<StorageId, number>()];
  const count = (map: Map<StorageId, number>, id: StorageId) => map.set(id, (map.get(id) ?? 0) + 1);
  for (const stmt of flatten(body)) {
    if (stmt.kind === "loop") continue;
    for (const id of new Set(readsOf(stmt))) count(readers, id);
    for (const id of writesOf(stmt)) count(writers, id);
  }
  const often = [...readers].filter(([id, times]) => times >= many && writers.get(id) === 1);
  return new Set(often.map(([id]) => id));
}
const many = 4;

type Cheap = MapStmt | Copy | CumSumStmt;

/** How a tile is made again. */
interface Recipe {
  readonly stmts: readonly Cheap[];
  readonly reads: ReadonlySet<StorageId>;
}

function recomputed(kernel: Kernel, fns: ReadonlySet<MapFn>, withSums: boolean): Kernel {
  const isTile = (id: StorageId) => {
    const { memory, shape } = kernel.storages[id]!;
    return memory === "register" && shape.length === 2;
  };
  const held = withSums ? readOften(kernel) : new Set<StorageId>();
  let added = 0;

  const inBody = (stmts: readonly Stmt[], outside: ReadonlyMap<StorageId, Recipe>): Stmt[] => {
    const cheap = new Map(outside);
    /** Cheap tiles that were computed since the last statement that takes whole tiles. */
    const fresh = new Set<StorageId>();
    /** Those that are being computed again. */
    const making = new Set<StorageId>();

    const again = (id: StorageId): Stmt[] => {
      const recipe = cheap.get(id);
      if (!recipe || fresh.has(id) || making.has(id)) return [];
      making.add(id);
      added++;
      const made = recipe.stmts.flatMap((stmt) => {
        const before = readsOf(stmt).flatMap(again);
        if (takesWhole(stmt)) fresh.clear();
        return [...before, stmt];
      });
      making.delete(id);
      fresh.add(id);
      return made;
    };
    const takesTiles = (id: StorageId): boolean =>
      cheap
        .get(id)
        ?.stmts.some(
          (one) =>
            takesWhole(one) || readsOf(one).some((other) => other !== id && takesTiles(other)),
        ) ?? false;
    const forget = (id: StorageId) => {
      cheap.delete(id);
      for (const [other, { reads }] of cheap) if (reads.has(id)) forget(other);
    };
    const isThere = (id: StorageId) => !isTile(id) || cheap.has(id) || held.has(id);
    const isCheap = (stmt: Stmt): stmt is Cheap =>
      (stmt.kind === "copy" && isTile(stmt.dst.storage) && !isTile(stmt.src.storage)) ||
      (stmt.kind === "map" &&
        isTile(stmt.dst) &&
        callsOnly(stmt.expr, fns) &&
        readsOf(stmt).every(isThere)) ||
      (withSums && stmt.kind === "cumsum" && isTile(stmt.dst) && isThere(stmt.src));

    return stmts.flatMap((stmt): Stmt[] => {
      if (stmt.kind === "loop") {
        for (const id of stmt.body.flatMap(writesOf)) forget(id);
        fresh.clear();
        return [{ ...stmt, body: inBody(stmt.body, cheap) }];
      }
      const needed = stmt.kind === "mma" ? [stmt.dst.storage] : readsOf(stmt);
      // First what holds whole tiles on its way.
      const wholeFirst = [...needed].sort((a, b) => Number(takesTiles(b)) - Number(takesTiles(a)));
      const before = wholeFirst.flatMap(again);
      // Of a tile that is changed in place, what it was before belongs to what it is.
      const dst = writesOf(stmt)[0];
      const own = isCheap(stmt)
        ? [...(readsOf(stmt).includes(dst!) ? cheap.get(dst!)!.stmts : []), stmt]
        : null;
      for (const id of writesOf(stmt)) forget(id);
      if (takesWhole(stmt)) fresh.clear();
      if (own) {
        cheap.set(dst!, { stmts: own, reads: new Set(own.flatMap(readsOf)) });
        fresh.add(dst!);
      }
      return [...before, stmt];
    });
  };

  const body = inBody(kernel.body, new Map());
  return added === 0 ? kernel : { ...kernel, body };
}
