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
 * Little is: numbers, places, copies of shared tiles, and sums and products of such and of vectors.
 *
 * Needs: place-operands. Guarantees: the same values; storages are as many as before.
 */
import type { Pass } from "../../support/pass.ts";
import type { MapFn } from "../../tensor/ir.ts";
import { readsOf, writesOf } from "../accesses.ts";
import type { Copy, Expr, Kernel, MapStmt, Stmt, StorageId, TileProgram } from "../ir.ts";
import { takesWhole } from "../pressure.ts";

export const recomputeTiles: Pass<TileProgram> = {
  name: "recompute-tiles",
  summary: "compute cheap tiles again where they are read, instead of holding them",
  run: (program) => {
    const kernels = program.kernels.map(recomputed);
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  },
};

type Cheap = MapStmt | Copy;

function recomputed(kernel: Kernel): Kernel {
  const isTile = (id: StorageId) => {
    const { memory, shape } = kernel.storages[id]!;
    return memory === "register" && shape.length === 2;
  };
  let added = 0;

  const inBody = (
    stmts: readonly Stmt[],
    outside: ReadonlyMap<StorageId, readonly Cheap[]>,
  ): Stmt[] => {
    const cheap = new Map(outside);
    /** Cheap tiles that were computed since the last statement that takes whole tiles. */
    const fresh = new Set<StorageId>();

    const again = (id: StorageId): Stmt[] => {
      const stmts = cheap.get(id);
      if (!stmts || fresh.has(id)) return [];
      fresh.add(id);
      added++;
      return stmts.flatMap((stmt) => [...readsOf(stmt).flatMap(again), stmt]);
    };
    const forget = (id: StorageId) => {
      cheap.delete(id);
      for (const [other, own] of cheap) {
        if (own.some((stmt) => readsOf(stmt).includes(id))) forget(other);
      }
    };
    const isCheap = (stmt: Stmt): stmt is Cheap =>
      (stmt.kind === "copy" && isTile(stmt.dst.storage) && !isTile(stmt.src.storage)) ||
      (stmt.kind === "map" &&
        isTile(stmt.dst) &&
        costsLittle(stmt.expr) &&
        readsOf(stmt).every((id) => !isTile(id) || cheap.has(id)));

    return stmts.flatMap((stmt): Stmt[] => {
      if (stmt.kind === "loop") {
        for (const id of stmt.body.flatMap(writesOf)) forget(id);
        fresh.clear();
        return [{ ...stmt, body: inBody(stmt.body, cheap) }];
      }
      const needed = stmt.kind === "mma" ? [stmt.dst.storage] : readsOf(stmt);
      const before = needed.flatMap(again);
      // Of a tile that is changed in place, what it was before belongs to what it is.
      const dst = writesOf(stmt)[0];
      const own = isCheap(stmt)
        ? [...(readsOf(stmt).includes(dst!) ? cheap.get(dst!)! : []), stmt]
        : null;
      for (const id of writesOf(stmt)) forget(id);
      if (takesWhole(stmt)) fresh.clear();
      if (own) {
        cheap.set(dst!, own);
        fresh.add(dst!);
      }
      return [...before, stmt];
    });
  };

  const body = inBody(kernel.body, new Map());
  return added === 0 ? kernel : { ...kernel, body };
}

const cheapFns: ReadonlySet<MapFn> = new Set<MapFn>([
  "neg",
  "add",
  "sub",
  "mul",
  "max",
  "min",
  "select",
  "lt",
  "le",
  "gt",
  "ge",
  "eq",
]);

function costsLittle(expr: Expr): boolean {
  return expr.kind !== "call" || (cheapFns.has(expr.fn) && expr.args.every(costsLittle));
}
