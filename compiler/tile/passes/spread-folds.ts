/**
 * Spread-folds: what warps find of a tile's rows is put together where it is first read, that of several tiles at once.
 *
 *   reduce a = sum col x scratch parts     fold parts = sum col x
 *   map y = mul(y, x)                      map y = mul(y, x)
 *   reduce b = sum col y scratch parts     fold parts_2 = sum col y
 *   map c = mul(a, b)                =>    join a = sum parts
 *                                          join b = sum parts_2
 *                                          map c = mul(a, b)
 *
 * A fold in one step is two barriers, one before the parts are summed and one before the sum is read. Here
 * insert-barriers finds how many are needed: one for all that is put together in a place. Each fold has parts of its own,
 * as narrow as there are warps side by side, while there is room.
 *
 * Needs: divide-roles, if it runs. Guarantees: the same values, parts summed in the same order.
 */
import type { Pass } from "../../support/pass.ts";
import { clash, flatten, hasLoop, newName, onlyUsed, threadsOf } from "../accesses.ts";
import type { Axis, Kernel, ReduceStmt, Stmt, Storage, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import type { SharedMemory } from "./pipeline-copies.ts";

export interface FoldLimits extends SharedMemory {
  /** How many warps of so many threads share a row (axis "col") or a column of a tile. */
  readonly partsOf: (rows: number, cols: number, axis: Axis, threads: number) => number;
}

export const spreadFolds = (limits: FoldLimits): Pass<TileProgram> => ({
  name: "spread-folds",
  summary: "put together what warps fold where it is read, of several tiles at once",
  run: onKernels((kernel) => spread(kernel, limits)),
});

function spread(kernel: Kernel, limits: FoldLimits): Kernel {
  const folds = new Folds(kernel, limits);
  const body = folds.inList(kernel.body);
  return folds.isChanged ? onlyUsed({ ...kernel, body, storages: folds.storages }) : kernel;
}

class Folds {
  readonly storages: Storage[];
  isChanged = false;
  private readonly kernel: Kernel;
  private readonly limits: FoldLimits;
  /** Storages for parts, and whose each is; where there is no room for another, a fold takes over one of its size. */
  private readonly used: { readonly storage: Storage; readonly role: number | undefined }[] = [];
  private free: number;

  constructor(kernel: Kernel, limits: FoldLimits) {
    [this.kernel, this.limits] = [kernel, limits];
    const { limitBytes, bytesOf } = limits;
    const sum = (some: readonly Storage[]) => some.reduce((bytes, one) => bytes + bytesOf(one), 0);
    const shared = kernel.storages.filter(({ memory }) => memory === "shared");
    const before = sum(shared);
    const scratches = new Set<StorageId>();
    for (const stmt of flatten(kernel.body)) {
      if (stmt.kind === "reduce" && stmt.scratch !== null) scratches.add(stmt.scratch);
    }
    // Of small kernels without a loop several blocks stand on a processor: they grow by nothing.
    const most = hasLoop(kernel) || before > limitBytes / 2 ? limitBytes : before;
    this.free = most - sum(shared.filter(({ id }) => !scratches.has(id)));
    this.storages = [...kernel.storages];
  }

  inList(stmts: readonly Stmt[]): readonly Stmt[] {
    const list: Stmt[] = [];
    for (const stmt of stmts) {
      if (stmt.kind === "loop") list.push({ ...stmt, body: this.inList(stmt.body) });
      else if (stmt.kind === "reduce" && this.storages[stmt.src]!.shape.length === 2) {
        list.push(...this.halves(stmt));
      } else list.push(stmt);
    }
    const late = joinedLate(list);
    this.isChanged ||= late.some((stmt, i) => stmt !== list[i]);
    return late;
  }

  private halves(stmt: ReduceStmt): Stmt[] {
    this.isChanged = true;
    const { fn, dst, src, axis, note, role } = stmt;
    const base = { note, ...(role === undefined ? {} : { role }) };
    const [rows, cols] = this.storages[src]!.shape as [number, number];
    const threads = threadsOf(this.kernel, stmt);
    const parts = this.limits.partsOf(rows, cols, axis, threads);
    if (parts === 1) return [{ kind: "fold", fn, dst, src, axis, ...base }];
    const held = this.partsOf(this.storages[dst]!.shape[0]!, parts, role);
    return [
      { kind: "fold", fn, dst: held, src, axis, ...base },
      { kind: "join", fn, dst, src: held, ...base },
    ];
  }

  /** A tile for a role's parts: one more, or one that is there. */
  private partsOf(rows: number, parts: number, role: number | undefined): StorageId {
    const id = this.storages.length as StorageId;
    const name = newName("parts", this.storages);
    const own: Storage = { id, name, memory: "shared", dtype: "f32", shape: [rows, parts], pad: 0 };
    const bytes = this.limits.bytesOf(own);
    const found = this.used.findLast(
      (one) => one.role === role && one.storage.shape.join() === own.shape.join(),
    );
    if (bytes > this.free && found) return found.storage.id;
    this.free -= bytes;
    this.storages.push(own);
    this.used.push({ storage: own, role });
    return id;
  }
}

/** Each join moves down to what needs it, and then up to a join before it whose barrier serves it too. */
function joinedLate(stmts: readonly Stmt[]): readonly Stmt[] {
  const list = [...stmts];
  for (let at = list.length - 1; at >= 0; at--) {
    if (list[at]!.kind !== "join") continue;
    let to = at;
    while (to + 1 < list.length && mayPass(list[at]!, list[to + 1]!)) to++;
    list.splice(to, 0, ...list.splice(at, 1));
  }
  for (let at = 0; at < list.length; at++) {
    if (list[at]!.kind !== "join") continue;
    for (let from = at + 1; from < list.length; from++) {
      const join = list[from]!;
      if (join.kind !== "join" || join.role !== list[at]!.role) continue;
      const between = list.slice(at + 1, from);
      if (between.some((other) => !mayPass(join, other))) continue;
      list.splice(++at, 0, ...list.splice(from, 1));
    }
  }
  return list;
}

/** Does it matter to neither which of them comes first? */
function mayPass(join: Stmt, other: Stmt): boolean {
  return !["await", "signal", "barrier", "loop"].includes(other.kind) && !clash(join, other);
}
