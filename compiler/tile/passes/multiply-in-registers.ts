/**
 * Multiply-in-registers: where warps share the columns of both factors of lhs rhs^T, each multiplies those it has.
 *
 *   copy a_bf16 = a                         mma-parts parts = a @ b^T
 *   copy b_bf16 = b                         join x = sum parts
 *   map x = 0                               map y = mul(x, mask)
 *   mma x += a_bf16 @ b_bf16^T        =>    copy y_bf16 = y
 *   map y = mul(x, mask)                    copy rest y_bf16_rest = y
 *   copy y_bf16 = y                         mma o += y_bf16 @ v
 *   mma o += y_bf16 @ v                     mma o += y_bf16_rest @ v
 *
 * Factors that were just computed, as decayed queries and keys are, then need no place in shared memory and are not
 * rounded to its 16 bits. What comes of such a product is more than 16 bits too, and small: it goes on in two parts.
 *
 * Only where both factors are staged for such products alone, and parts are at most 32 numbers a thread.
 * Needs: place-operands. Guarantees: the same values, but for what rounding left of them.
 */
import type { Pass } from "../../support/pass.ts";
import { isWhole, newName, onlyUsed, readsOf, threadsOf, touches, writesOf } from "../accesses.ts";
import type { Copy, Kernel, Mma, Stmt, Storage, StorageId, TileProgram, Window } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import type { FoldLimits } from "./spread-folds.ts";

export interface ProductLimits extends FoldLimits {
  /** Have threads the registers for a kernel's tiles? */
  readonly fits: (kernel: Kernel) => boolean;
}

export const multiplyInRegisters = (limits: ProductLimits): Pass<TileProgram> => ({
  name: "multiply-in-registers",
  summary: "multiply what warps have of both factors where they have it",
  run: onKernels((kernel) => {
    const changed = new Products(kernel, limits).kernel();
    if (changed === kernel || !limits.fits(changed)) return kernel;
    const shared = changed.storages.filter(({ memory }) => memory === "shared");
    const bytes = shared.reduce((sum, storage) => sum + limits.bytesOf(storage), 0);
    return bytes <= limits.limitBytes ? changed : kernel;
  }),
});

/** What a thread may have of a product's parts, and what keeps rows of parts in different banks. */
const mostRegisters = 32;
const pad = 8;

/** A product of one list whose factors are copies of register tiles, and the statement that clears its sum. */
interface Candidate {
  readonly at: number;
  readonly product: Mma;
  readonly copies: readonly [number, number];
  readonly clearing: number;
}

class Products {
  private readonly whole: Kernel;
  private readonly limits: ProductLimits;
  private readonly storages: Storage[];

  constructor(whole: Kernel, limits: ProductLimits) {
    [this.whole, this.limits] = [whole, limits];
    this.storages = [...whole.storages];
  }

  kernel(): Kernel {
    const body = this.inList(this.whole.body);
    if (body === this.whole.body) return this.whole;
    return onlyUsed({ ...this.whole, body, storages: this.storages });
  }

  private inList(stmts: readonly Stmt[]): readonly Stmt[] {
    const inner = stmts.map((stmt) => {
      if (stmt.kind !== "loop") return stmt;
      const body = this.inList(stmt.body);
      return body === stmt.body ? stmt : { ...stmt, body };
    });
    const list = inner.some((stmt, i) => stmt !== stmts[i]) ? inner : stmts;
    const chosen = this.chosenIn(list);
    return chosen.length === 0 ? list : this.inTwoParts(this.inRegisters(list, chosen));
  }

  /** The candidates whose factors are staged for nothing but candidates. */
  private chosenIn(list: readonly Stmt[]): readonly Candidate[] {
    let chosen = list.flatMap((stmt, at) =>
      stmt.kind === "mma" ? this.candidate(list, stmt, at) : [],
    );
    for (let count = -1; count !== chosen.length;) {
      count = chosen.length;
      const places = new Set(chosen.map(({ at }) => at));
      chosen = chosen.filter(({ copies }) =>
        copies.every((copy) => readersOf(list, copy)?.every((reader) => places.has(reader))),
      );
    }
    return chosen;
  }

  private candidate(list: readonly Stmt[], product: Mma, at: number): readonly Candidate[] {
    const { dst, lhs, rhs, role } = product;
    if (product.transposeLhs || !product.transposeRhs || dst.rows * dst.cols > 32 * mostRegisters) {
      return [];
    }
    const copies = [lhs, rhs].map(({ storage }) => this.copyBefore(list, storage, at));
    const writers = [...list.keys()].filter((n) => writesOf(list[n]!).includes(dst.storage));
    const [clearing] = writers;
    const first = list[clearing ?? at]!;
    const isCleared = first.kind === "map" && first.expr.kind === "const" && first.expr.value === 0;
    const isAlone =
      writers.length === 2 &&
      writers[1] === at &&
      isCleared &&
      !this.isElsewhere(list, dst.storage);
    const [left, right] = copies;
    if (!isAlone || left === undefined || right === undefined) return [];
    if (copies.some((copy) => list[copy!]!.role !== role)) return [];
    return [{ at, product, copies: [left, right], clearing: clearing! }];
  }

  /** Do statements of other lists touch it? */
  private isElsewhere(list: readonly Stmt[], id: StorageId): boolean {
    const others = (stmts: readonly Stmt[]): boolean =>
      stmts.some((stmt) => {
        if (stmt.kind === "loop") return others(stmt.body);
        return !list.includes(stmt) && touches(stmt, id);
      });
    return others(this.whole.body);
  }

  /** Where a factor was staged from a register tile that still holds it, of which each warp has some columns. */
  private copyBefore(list: readonly Stmt[], tile: StorageId, at: number): number | undefined {
    const found = list.slice(0, at).findLastIndex((stmt) => writesOf(stmt).includes(tile));
    const copy = list[found];
    if (copy?.kind !== "copy" || copy.transpose || copy.rest) return undefined;
    const from = this.storages[copy.src.storage]!;
    const [rows, cols] = from.shape as [number, number];
    if (from.memory !== "register" || from.dtype !== "f32" || !isWhole(copy.src, from))
      return undefined;
    if (!isWhole(copy.dst, this.storages[tile]!)) return undefined;
    if (list.slice(found, at).some((stmt) => writesOf(stmt).includes(from.id))) return undefined;
    const threads = threadsOf(this.whole, copy);
    const across = this.limits.partsOf(rows, cols, "col", threads);
    return across === threads / 32 && (cols / across) % 8 === 0 ? found : undefined;
  }

  /** Each product right behind its factors, and the sum of its parts where it was. */
  private inRegisters(list: readonly Stmt[], chosen: readonly Candidate[]): readonly Stmt[] {
    const behind = new Map<number, Stmt[]>();
    const instead = new Map<number, Stmt[]>();
    for (const { at, product, copies, clearing } of chosen) {
      const { dst, note, role } = product;
      const base = { note, ...(role === undefined ? {} : { role }) };
      const [lhs, rhs] = copies.map((copy) => (list[copy] as Copy).src.storage) as [
        StorageId,
        StorageId,
      ];
      const rows = (dst.rows * threadsOf(this.whole, product)) / 32;
      const parts = this.fresh("parts", {
        memory: "shared",
        dtype: "f32",
        shape: [rows, dst.cols],
        pad,
      });
      const last = Math.max(...copies);
      behind.set(last, [
        ...(behind.get(last) ?? []),
        { kind: "mma-parts", dst: parts, lhs, rhs, ...base },
      ]);
      instead.set(at, [{ kind: "join", fn: "sum", dst: dst.storage, src: parts, ...base }]);
      for (const gone of [clearing, ...copies]) if (!instead.has(gone)) instead.set(gone, []);
    }
    return list.flatMap((stmt, at) => [...(instead.get(at) ?? [stmt]), ...(behind.get(at) ?? [])]);
  }

  /** What comes of joined parts and goes into another product goes there in two parts. */
  private inTwoParts(list: readonly Stmt[]): readonly Stmt[] {
    const exact = new Set<StorageId>();
    const behind = new Map<number, Stmt>();
    list.forEach((stmt, at) => {
      const reads = readsOf(stmt);
      const isJoined = stmt.kind === "join" && this.storages[stmt.dst]!.shape.length === 2;
      if (isJoined || (stmt.kind === "map" && reads.some((id) => exact.has(id)))) {
        for (const id of writesOf(stmt)) exact.add(id);
      }
      if (stmt.kind !== "copy" || !exact.has(stmt.src.storage)) return;
      const { id, memory, dtype, name } = this.storages[stmt.dst.storage]!;
      const readers = readersOf(list, at);
      const isLeft = (n: number) => {
        const reader = list[n]!;
        return reader.kind === "mma" && reader.lhs.storage === id && reader.rhs.storage !== id;
      };
      if (memory !== "shared" || dtype === "f32" || !readers?.every(isLeft)) return;
      const rest = this.fresh(`${name}_rest`, this.storages[id]!);
      const moved = (window: Window): Window => ({ ...window, storage: rest });
      behind.set(at, { ...stmt, dst: moved(stmt.dst), rest: true });
      for (const n of readers) {
        const reader = list[n] as Mma;
        behind.set(n, { ...reader, lhs: moved(reader.lhs) });
      }
    });
    return list.flatMap((stmt, at) => (behind.has(at) ? [stmt, behind.get(at)!] : [stmt]));
  }

  private fresh(wanted: string, like: Omit<Storage, "id" | "name">): StorageId {
    const id = this.storages.length as StorageId;
    this.storages.push({ ...like, id, name: newName(wanted, this.storages) });
    return id;
  }
}

/** The places of a list that read what a copy writes; null where the next turn may. */
function readersOf(list: readonly Stmt[], copy: number): readonly number[] | null {
  const [tile] = writesOf(list[copy]!) as [StorageId];
  const first = list.find((stmt) => touches(stmt, tile))!;
  if (readsOf(first).includes(tile)) return null;
  const next = list.findIndex((stmt, at) => at > copy && writesOf(stmt).includes(tile));
  const end = next < 0 ? list.length : next;
  return [...list.keys()].filter(
    (at) => at > copy && at < end && readsOf(list[at]!).includes(tile),
  );
}
