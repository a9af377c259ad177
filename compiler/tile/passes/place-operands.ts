/**
 * Place-operands: the factors of every product lie in shared memory, in 16 bits, as tensor cores read
 * them; what comes from a buffer in 16 bits goes there without passing through registers.
 *
 *   load q = q[t, 0]                       copy-async q_shared = q[t, 0]
 *   load k = k[t, 0]                       copy-async k_shared = k[t, 0]
 *   mma scores += q @ k^T            =>    wait 0
 *   map masked = scores * mask             mma scores += q_shared @ k_shared^T
 *   mma o += masked @ v                    map masked = scores * mask
 *                                          copy masked_shared = masked
 *                                          mma o += masked_shared @ v_shared
 *
 * A factor is staged once for all products that read it. Staged tiles whose last reader is past give
 * their memory to later ones of the same size. Triangles are inverted in a float32 tile, sums down columns
 * and turned halves of rows go through one, unless the target sums in registers; folds get scratch.
 *
 * Guarantees: factors of products are whole shared tiles in 16 bits, results stay in registers.
 * Then insert-barriers must follow. Source: the operand layouts of `ldmatrix` and `wgmma`, PTX ISA 8.7.
 */
import { CompilerBug } from "../../support/never.ts";
import type { Pass } from "../../support/pass.ts";
import type { Dtype } from "../../tensor/ir.ts";
import type {
  CumSumStmt,
  Expr,
  Invert,
  Kernel,
  Load,
  Loop,
  MapStmt,
  Mma,
  RotateHalfStmt,
  SolveStmt,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  Window,
} from "../ir.ts";
import { flatten, newName, readsOf, writesOf } from "../accesses.ts";
import { factorDtype } from "../target.ts";

/** Warps that fold a row or column together at most; see `ReduceStmt.scratch`. */
const foldLanes = 8;
/** Float columns behind a triangle's: four rows of four pairs of neighbours, as half a warp reads and writes them, then meet all banks. */
const padOfTriangles = 8;

/** Can the target sum down the columns of a register tile in blocks of rows without shared memory? */
export type SumsInRegisters = (rows: number, cols: number, block: number) => boolean;

export const placeOperands = (sumsInRegisters: SumsInRegisters): Pass<TileProgram> => ({
  name: "place-operands",
  summary: "put the factors of products into shared memory, in 16 bits",
  run: (program) => ({
    ...program,
    kernels: program.kernels.map((kernel) => place(kernel, sumsInRegisters)),
  }),
});

function place(kernel: Kernel, sumsInRegisters: SumsInRegisters): Kernel {
  const placer = new Placer(kernel, sumsInRegisters);
  const body = placer.body(kernel.body);
  return { ...kernel, body, storages: placer.storages };
}

class Placer {
  readonly storages: Storage[];
  private readonly kernel: Kernel;
  private readonly sumsInRegisters: SumsInRegisters;
  /** What factors are stored as: the type of the 16-bit inputs. */
  private readonly narrow: Dtype;
  /** The shared tile that holds a storage's present value. */
  private readonly staged = new Map<StorageId, StorageId>();
  private readonly free: StorageId[] = [];
  /** Tiles that hold what a buffer does, as it is. */
  private readonly loaded = new Set<StorageId>();
  /** Storages that are read otherwise than as factors. */
  private readonly readByOthers = new Set<StorageId>();
  /** Of those, what a tile holds and registers not yet. */
  private readonly unread = new Set<StorageId>();
  /** Storages that were staged because others read them than products. */
  private readonly readBack = new Set<StorageId>();
  /** Of triangular matrices the inverse, as a 16-bit tile. */
  private readonly inverses = new Map<StorageId, { tile: StorageId; isTurned: boolean }>();
  /** Storages that were staged in the list of statements at hand. */
  private mine = new Set<StorageId>();
  private folds: StorageId | null = null;

  constructor(kernel: Kernel, sumsInRegisters: SumsInRegisters) {
    this.kernel = kernel;
    this.sumsInRegisters = sumsInRegisters;
    this.storages = [...kernel.storages];
    this.narrow = factorDtype(kernel.params.map(({ dtype }) => dtype));
    const stmts = [...flatten(kernel.body)];
    for (const id of stmts.flatMap(registersRead)) this.readByOthers.add(id);
    this.giveScratch(stmts);
  }

  body(stmts: readonly Stmt[]): Stmt[] {
    const outer = this.mine;
    this.mine = new Set();
    const out: Stmt[] = [];
    stmts.forEach((stmt, i) => {
      out.push(...this.statement(stmt));
      this.release(stmts, i);
    });
    this.mine = outer;
    return hoistCopies(out);
  }

  private statement(stmt: Stmt): Stmt[] {
    const summed = stmt.kind === "cumsum" ? this.summedInMemory(stmt) : null;
    if (summed !== null) return [summed];
    return [...this.fetched(stmt), ...this.placed(stmt)];
  }

  /** Registers are filled from a tile where they are first read, not before. */
  private fetched(stmt: Stmt): Stmt[] {
    const reads =
      stmt.kind === "loop" ? [...flatten(stmt.body)].flatMap(registersRead) : registersRead(stmt);
    return [...new Set(reads)]
      .filter((id) => this.unread.delete(id))
      .map((id) => this.copy(id, this.staged.get(id)!, stmt.note));
  }

  private placed(stmt: Stmt): Stmt[] {
    switch (stmt.kind) {
      case "load":
        return this.load(stmt);
      case "mma": {
        const before: Stmt[] = [];
        const [lhs, rhs] = [
          this.factor(stmt.lhs, stmt, before),
          this.factor(stmt.rhs, stmt, before),
        ];
        this.forget(stmt);
        return [...before, { ...stmt, lhs, rhs }];
      }
      case "loop":
        return [this.loop(stmt)];
      case "cumsum":
        return this.summed(stmt);
      case "solve":
        return this.solved(stmt);
      case "invert":
        return this.inverted(stmt);
      case "rotate-half":
        return this.rotated(stmt);
      case "reduce": {
        this.forget(stmt);
        return [this.isTile(stmt.src) ? { ...stmt, scratch: this.folds } : stmt];
      }
      case "map":
        this.forget(stmt);
        return this.map(stmt);
      default:
        this.forget(stmt);
        return [stmt];
    }
  }

  /** What is to be as factors are is rounded where it is staged; others than products read it back from there. */
  private map(stmt: MapStmt): Stmt[] {
    const { dst, note } = stmt;
    const expr = unrounded(stmt.expr);
    if (expr === null || this.narrow !== "bf16" || !this.isTile(dst)) return [stmt];
    const whole: Stmt = { ...stmt, expr };
    if (!this.readByOthers.has(dst)) return [whole];
    const tile = this.tileLike(dst);
    this.staged.set(dst, tile);
    this.mine.add(dst);
    this.unread.add(dst);
    this.readBack.add(dst);
    return [whole, this.copy(tile, dst, note)];
  }

  /** What a statement writes is no longer what was staged of it. */
  private forget(stmt: Stmt): void {
    for (const id of writesOf(stmt)) {
      const tile = this.staged.get(id);
      if (tile !== undefined && this.mine.delete(id)) this.free.push(tile);
      this.staged.delete(id);
      this.unread.delete(id);
      this.inverses.delete(id);
    }
  }

  /** What a loop's body writes is staged anew in each turn, and what it stages is its own. */
  private loop(stmt: Loop): Loop {
    for (const inner of flatten(stmt.body)) this.forget(inner);
    this.inverses.clear();
    const before = new Map(this.staged);
    const body = this.body(stmt.body);
    this.staged.clear();
    for (const [id, tile] of before) this.staged.set(id, tile);
    return { ...stmt, body };
  }

  private load(stmt: Load): Stmt[] {
    this.forget(stmt);
    const param = this.kernel.params.find(({ name }) => name === stmt.view.param)!;
    const { view, note } = stmt;
    const { shape, name, memory } = this.storages[stmt.dst]!;
    const wait: Stmt = { kind: "wait", pending: 0, note };
    if (memory === "shared") {
      const isCopy = param.dtype === "f32" && param.per === "token" && this.isWrittenOnce(stmt.dst);
      return isCopy
        ? [{ kind: "copy-async", turns: "all", ahead: 0, dst: stmt.dst, view, note }, wait]
        : [stmt];
    }
    const isFactor =
      param.dtype === this.narrow && (param.per === "token" || param.per === "chunk");
    if (!this.isTile(stmt.dst) || !isFactor) return [stmt];
    // Copies are started early: their tiles are nobody else's before or after.
    const tile = this.newTile(shape, `${name}_${this.narrow}`, this.narrow);
    this.staged.set(stmt.dst, tile);
    this.loaded.add(tile);
    if (this.readByOthers.has(stmt.dst)) this.unread.add(stmt.dst);
    return [{ kind: "copy-async", turns: "all", ahead: 0, dst: tile, view, note }, wait];
  }

  private isWrittenOnce(id: StorageId): boolean {
    const writers = [...flatten(this.kernel.body)].filter(
      (stmt) => stmt.kind !== "loop" && writesOf(stmt).includes(id),
    );
    return writers.length === 1;
  }

  private factor(window: Window, { note }: Mma, before: Stmt[]): Window {
    const known = this.staged.get(window.storage);
    if (known !== undefined) return { ...window, storage: known };
    const tile = this.tileLike(window.storage);
    before.push(this.copy(tile, window.storage, note));
    this.staged.set(window.storage, tile);
    this.mine.add(window.storage);
    return { ...window, storage: tile };
  }

  /** Tiles that this statement reads, and no later one of the list before their source changes, are free. */
  private release(stmts: readonly Stmt[], at: number): void {
    const reads = new Set(readsOf(stmts[at]!));
    for (const source of this.mine) {
      if (!reads.has(source) || isReadLater(stmts, at, source, this.readBack.has(source))) continue;
      this.mine.delete(source);
      this.free.push(this.staged.get(source)!);
      this.staged.delete(source);
    }
  }

  // --- what is not a product ----------------------------------------------------------------

  /** Where the target sums in registers, what lies in memory in bf16 as it was loaded need not go there first. */
  private summedInMemory(stmt: CumSumStmt): CumSumStmt | null {
    const tile = this.staged.get(stmt.src);
    if (tile === undefined || !this.loaded.has(tile) || this.narrow !== "bf16") return null;
    if (!this.canSum(stmt)) return null;
    this.forget(stmt);
    return { ...stmt, src: tile };
  }

  private canSum({ src, dst, block, earlier }: CumSumStmt): boolean {
    const [rows, cols] = this.storages[src]!.shape as [number, number];
    const size = block ?? rows;
    return src !== dst && this.sumsInRegisters(rows, cols, earlier ? 2 * size : size);
  }

  /** cumsum dst = src, both in shared memory. */
  private summed(stmt: CumSumStmt): Stmt[] {
    this.forget(stmt);
    if (!this.isTile(stmt.src)) return [stmt];
    if (this.canSum(stmt)) return [stmt];
    return this.through(stmt.src, stmt.dst, stmt.note, (id) => ({ ...stmt, dst: id, src: id }));
  }

  /**
   * X = (I - L)^-1 B as B + N B, N the rest of the inverse: in float32 all that grows, the chain of factors;
   * in 16 bits what it is applied to. An upper triangle is solved by the transposed inverse of its own.
   */
  private solved(stmt: SolveStmt): Stmt[] {
    const { note, dst, upper } = stmt;
    const isTurned = stmt.transpose !== upper;
    const before: Stmt[] = [];
    const inverse = this.inverseOf(stmt.matrix, isTurned, note, before);
    const rhs = this.tileLike(dst);
    before.push(this.copy(rhs, dst, note));
    this.free.push(rhs);
    this.forget(stmt);
    return [
      ...before,
      {
        kind: "mma",
        dst: whole(this.storages[dst]!),
        lhs: whole(this.storages[inverse]!),
        rhs: whole(this.storages[rhs]!),
        transposeLhs: upper,
        transposeRhs: false,
        note,
      },
    ];
  }

  /** A 16-bit tile of (I - L)^-1 - I, of a matrix or its transpose; made once for all that need it. */
  private inverseOf(
    matrix: StorageId,
    isTurned: boolean,
    note: string | null,
    before: Stmt[],
  ): StorageId {
    const known = this.inverses.get(matrix);
    if (known?.isTurned === isTurned) return known.tile;
    const from = this.storages[matrix]!;
    const square = this.tileOf(from.shape, "triangle", "f32", padOfTriangles);
    const held = this.newTile(from.shape, "inverse", "f32", "register");
    const tile = this.newTile(from.shape, `inverse_${this.narrow}`, this.narrow);
    const to = whole(this.storages[square]!);
    before.push(
      { kind: "copy", dst: to, src: whole(from), transpose: isTurned, note },
      { kind: "invert", dst: square, note },
      this.copy(held, square, note),
      this.copy(tile, held, note),
    );
    this.free.push(square);
    this.inverses.set(matrix, { tile, isTurned });
    return tile;
  }

  /** In a float32 tile in shared memory. */
  private inverted(stmt: Invert): Stmt[] {
    this.forget(stmt);
    const { dst, note } = stmt;
    const square = this.tileOf(this.storages[dst]!.shape, "triangle", "f32", padOfTriangles);
    this.free.push(square);
    return [this.copy(square, dst, note), { ...stmt, dst: square }, this.copy(dst, square, note)];
  }

  private rotated(stmt: RotateHalfStmt): Stmt[] {
    this.forget(stmt);
    const { note } = stmt;
    const tile = this.tileOf(this.storages[stmt.src]!.shape, "rotated", "f32");
    this.free.push(tile);
    return [this.copy(tile, stmt.src, note), { ...stmt, src: tile }];
  }

  /** src to a float32 tile, `work` on it, and on to dst. */
  private through(
    src: StorageId,
    dst: StorageId,
    note: string | null,
    work: (tile: StorageId) => Stmt,
  ): Stmt[] {
    const tile = this.tileOf(this.storages[src]!.shape, "columns", "f32");
    this.free.push(tile);
    return [this.copy(tile, src, note), work(tile), this.copy(dst, tile, note)];
  }

  private giveScratch(stmts: readonly Stmt[]): void {
    const folded = stmts.flatMap((stmt) =>
      stmt.kind === "reduce" && this.isTile(stmt.src) ? [this.storages[stmt.dst]!.shape[0]!] : [],
    );
    if (folded.length === 0) return;
    this.folds = this.newTile([Math.max(...folded), foldLanes], "partial_folds", "f32");
  }

  // --- storages -----------------------------------------------------------------------------

  private isTile(id: StorageId): boolean {
    const { shape, memory } = this.storages[id]!;
    return shape.length === 2 && memory === "register";
  }

  private tileLike(id: StorageId): StorageId {
    const { shape, name } = this.storages[id]!;
    return this.tileOf(shape, `${name}_${this.narrow}`, this.narrow);
  }

  /** A free tile of that size, or a new one. */
  private tileOf(shape: readonly number[], name: string, dtype: Dtype, pad = 1): StorageId {
    const found = this.free.findIndex((id) => {
      const storage = this.storages[id]!;
      const isAlike = storage.dtype === dtype && storage.shape.join() === shape.join();
      return isAlike && (dtype !== "f32" || storage.pad === pad);
    });
    if (found >= 0) return this.free.splice(found, 1)[0]!;
    return this.newTile(shape, name, dtype, "shared", pad);
  }

  private newTile(
    shape: readonly number[],
    name: string,
    dtype: Dtype,
    memory: Storage["memory"] = "shared",
    padOfFloats = 1,
  ): StorageId {
    const id = this.storages.length as StorageId;
    const unique = newName(name, this.storages);
    // Tiles of 16 bits have a layout of their own; see tile/ir.ts.
    const pad = dtype === "f32" && memory === "shared" ? padOfFloats : 0;
    this.storages.push({ id, name: unique, memory, dtype, shape, pad });
    return id;
  }

  private copy(dst: StorageId, src: StorageId, note: string | null): Stmt {
    const [to, from] = [this.storages[dst]!, this.storages[src]!];
    return { kind: "copy", dst: whole(to), src: whole(from), transpose: false, note };
  }
}

/**
 * Starts copies that depend on nothing but the loop's own place as early as can be: at the top of the
 * list, one wait for all of them.
 */
function hoistCopies(stmts: readonly Stmt[]): Stmt[] {
  const copies = stmts.filter((stmt) => stmt.kind === "copy-async");
  if (copies.length === 0) return [...stmts];
  const [first] = copies as [Stmt];
  const rest = stmts.filter((stmt) => stmt.kind !== "copy-async" && stmt.kind !== "wait");
  return [...copies, { kind: "wait", pending: 0, note: first.note }, ...rest];
}

/** Does a product behind `at`, or anything, read the storage before anything writes it? */
function isReadLater(
  stmts: readonly Stmt[],
  at: number,
  id: StorageId,
  byAnything: boolean,
): boolean {
  for (let next = at + 1; next < stmts.length; next++) {
    const stmt = stmts[next]!;
    for (const inner of stmt.kind === "loop" ? flatten(stmt.body) : [stmt]) {
      if ((byAnything || inner.kind === "mma") && readsOf(inner).includes(id)) return true;
    }
    if (writesOf(stmt).includes(id)) return false;
  }
  return false;
}

/** x of as_bf16(x), also where 0 takes its place in padding; null: it is another expression. */
function unrounded(expr: Expr): Expr | null {
  if (expr.kind !== "call") return null;
  const [first, x, other] = expr.args;
  if (expr.fn === "as_bf16") return first!;
  if (expr.fn !== "select" || other?.kind !== "const" || other.value !== 0) return null;
  const inner = unrounded(x!);
  return inner && { ...expr, args: [first!, inner, other] };
}

/** What a statement reads from registers: of a product what it adds to, not its factors. */
function registersRead(stmt: Stmt): readonly StorageId[] {
  if (stmt.kind === "loop") return [];
  return stmt.kind === "mma" ? [stmt.dst.storage] : readsOf(stmt);
}

function whole(storage: Storage): Window {
  const [rows, cols] = storage.shape;
  if (rows === undefined || cols === undefined) {
    throw new CompilerBug(`place-operands: ${storage.name} is no tile`);
  }
  const origin = { base: null, offset: 0 };
  return { storage: storage.id, row: origin, col: origin, rows, cols };
}
