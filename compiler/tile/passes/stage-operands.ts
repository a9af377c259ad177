/**
 * Stage-operands: the factors of every product pass through shared memory, a slab at a time.
 *
 *   mma scores += q @ k^T            loop s below 64 step 32 {
 *                              =>      copy lhs_slab = q[:, s..s+32]^T
 *                                      copy rhs_slab = k[:, s..s+32]^T
 *                                      mma scores += lhs_slab^T @ rhs_slab
 *                                    }
 *
 * The threads of a grid point hold register tiles in pieces, and a product needs whole rows and
 * columns of its factors: they meet in two scratch tiles that all products of the kernel share. Both
 * hold a slab of the contracted axis by rows, so every product reads them alike. Slabs are as deep as
 * shared memory allows; a large result is done in parts when they would not fit. Folds of
 * register tiles get scratch for their partial results, rotations a shared source where they need it;
 * what walks down columns (cumsum, solve) does so in shared memory, a slab of columns at a time.
 *
 * Guarantees: factors of products are shared, [depth, rows] and [depth, cols]; scratch fits
 * `limits.sharedBytes`. Then insert-barriers must follow. Source: the slab loop of every blocked
 * matrix product; see docs/architecture.md for the thread layout.
 */
import { flatten } from "../accesses.ts";
import { CompilerBug } from "../../support/never.ts";
import type { Pass, Report } from "../../support/pass.ts";
import { noSpan } from "../../support/span.ts";
import type {
  Copy,
  CumSumStmt,
  Index,
  Kernel,
  Mma,
  RotateHalfStmt,
  SolveStmt,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  Window,
} from "../ir.ts";
import { onKernels } from "../on-kernels.ts";
import type { Limits } from "../target.ts";

/** Depths a slab may have, best first. */
const depths = [32, 16] as const;
/** Lanes that fold a row or column together; see `ReduceStmt.scratch`. */
const foldLanes = 16;

export function stageOperands(limits: Limits): Pass<TileProgram> {
  return {
    name: "stage-operands",
    summary: "pass the factors of products through shared memory, a slab at a time",
    run: onKernels((kernel, report) => stageKernel(kernel, limits, report)),
  };
}

function stageKernel(kernel: Kernel, limits: Limits, report: Report): Kernel {
  const stager = new Stager(kernel, limits, report);
  const body = stager.stage(kernel.body);
  return stager.changed ? { ...kernel, body, storages: stager.storages } : kernel;
}

/** A rectangle of a product's result that is computed at a time. */
interface Part {
  readonly row: number;
  readonly rows: number;
  readonly col: number;
  readonly cols: number;
}

class Stager {
  readonly storages: Storage[];
  changed = false;
  private readonly kernel: Kernel;
  private readonly limits: Limits;
  private readonly report: Report;
  private lhs: Storage | null = null;
  private rhs: Storage | null = null;
  private folds: Storage | null = null;
  private columns: Storage | null = null;
  private matrix: Storage | null = null;
  private depth = 0;
  private part = { rows: 0, cols: 0 };
  private slabs = 0;

  constructor(kernel: Kernel, limits: Limits, report: Report) {
    this.kernel = kernel;
    this.limits = limits;
    this.report = report;
    this.storages = [...kernel.storages];
    this.giveScratch();
  }

  stage(stmts: readonly Stmt[]): Stmt[] {
    return stmts.flatMap((stmt): Stmt[] => {
      switch (stmt.kind) {
        case "mma":
          return this.isShared(stmt.lhs) && this.isShared(stmt.rhs) ? [stmt] : this.product(stmt);
        case "rotate-half":
          return this.rotation(stmt);
        case "cumsum":
          return this.sums(stmt);
        case "solve":
          return this.solution(stmt);
        case "reduce": {
          const isTile = this.storage(stmt.src).shape.length === 2;
          if (!isTile || stmt.scratch !== null) return [stmt];
          this.changed = true;
          return [{ ...stmt, scratch: this.folds!.id }];
        }
        case "loop":
          return [{ ...stmt, body: this.stage(stmt.body) }];
        default:
          return [stmt];
      }
    });
  }

  /** The scratch tiles: folds first, the products share what is left. */
  private giveScratch(): void {
    const { limits } = this;
    const stmts = [...flatten(this.kernel.body)];
    const tallest = stmts.flatMap((stmt) =>
      stmt.kind === "reduce" && this.storage(stmt.src).shape.length === 2
        ? [this.storage(stmt.dst).shape[0]!]
        : [],
    );
    if (tallest.length > 0) {
      // A quarter of the memory at most, less where vectors take much; what is taller is folded in parts.
      const vectors = this.storages.filter(({ memory }) => memory === "shared");
      const isTight =
        vectors.reduce((sum, one) => sum + elements(one), 0) * 16 > limits.sharedBytes;
      const most = Math.floor(limits.sharedBytes / 16 / (foldLanes + 1) / foldLanes) * foldLanes;
      const rows = isTight ? foldLanes : Math.min(most, Math.max(...tallest));
      this.folds = this.newShared("partial_folds", rows, foldLanes);
    }
    this.giveColumns(stmts);
    const products = stmts.filter(
      (stmt): stmt is Mma =>
        stmt.kind === "mma" && !(this.isShared(stmt.lhs) && this.isShared(stmt.rhs)),
    );
    if (products.length === 0) return;
    const taken = this.storages.filter((storage) => storage.memory === "shared");
    const free = this.limits.sharedBytes / 4 - taken.reduce((sum, s) => sum + elements(s), 0);
    const rows = Math.max(...products.map((stmt) => stmt.dst.rows));
    const cols = Math.max(...products.map((stmt) => stmt.dst.cols));
    // The largest parts of the result whose slabs fit: halved along the longer side until they do.
    let [partRows, partCols] = [rows, cols];
    while (this.depth === 0 && partRows >= 16 && partCols >= 16) {
      this.depth = depths.find((depth) => depth * (partRows + partCols + 2) <= free) ?? 0;
      if (this.depth > 0) break;
      if (partRows >= partCols) partRows = Math.floor(partRows / 32) * 16;
      else partCols = Math.floor(partCols / 32) * 16;
    }
    this.part = { rows: partRows, cols: partCols };
    if (this.depth === 0) {
      const message = `${this.kernel.name} needs more shared memory than ${this.limits.sharedBytes} bytes`;
      const help = "choose smaller K and V";
      this.report.limit({
        code: "unsupported-size",
        severity: "error",
        message,
        labels: [{ span: noSpan, text: message }],
        help,
      });
      this.depth = 16;
      this.part = { rows: 16, cols: 16 };
    }
    this.lhs = this.newShared("lhs_slab", this.depth, this.part.rows);
    this.rhs = this.newShared("rhs_slab", this.depth, this.part.cols);
  }

  /** Scratch for what walks down the columns of register tiles: a slab of columns, and a matrix. */
  private giveColumns(stmts: readonly Stmt[]): void {
    const isTile = (id: StorageId) => {
      const { memory, shape } = this.storage(id);
      return memory === "register" && shape.length === 2;
    };
    const walked = stmts.flatMap((stmt) =>
      (stmt.kind === "cumsum" || stmt.kind === "solve") && isTile(stmt.dst) ? [stmt] : [],
    );
    if (walked.length === 0) return;
    const rows = Math.max(...walked.map(({ dst }) => this.storage(dst).shape[0]!));
    const widest = [64, 32, 16].find(
      (cols) => rows * (cols + 1) * 4 <= this.limits.sharedBytes / 5,
    );
    this.columns = this.newShared("columns", rows, widest ?? 16);
    if (walked.some(({ kind }) => kind === "solve")) {
      this.matrix = this.newShared("matrix", rows, rows);
    }
  }

  private newShared(name: string, rows: number, cols: number): Storage {
    const id = this.storages.length as StorageId;
    const shape = [rows, cols];
    const storage: Storage = { id, name, memory: "shared", dtype: "f32", shape, pad: 1 };
    this.storages.push(storage);
    return storage;
  }

  private storage(id: StorageId): Storage {
    const found = this.storages.find((storage) => storage.id === id);
    if (!found) throw new CompilerBug(`stage-operands: no storage ${id}`);
    return found;
  }

  private isShared(window: Window): boolean {
    return this.storage(window.storage).memory === "shared";
  }

  private product(stmt: Mma): Stmt[] {
    this.changed = true;
    const depth = stmt.transposeLhs ? stmt.lhs.rows : stmt.lhs.cols;
    const whole = depth - (depth % this.depth);
    const parts: Stmt[] = [];
    for (const part of this.partsOf(stmt.dst)) {
      if (whole > 0)
        parts.push(this.slabLoop(stmt, part, { from: 0, to: whole, step: this.depth }));
      // A contracted axis that is no multiple of the slab ends with a thinner one.
      const rest = { from: whole, to: depth, step: depth - whole };
      if (whole < depth) parts.push(this.slabLoop(stmt, part, rest));
    }
    return parts;
  }

  private partsOf({ rows, cols }: Window): Part[] {
    const parts: Part[] = [];
    for (let row = 0; row < rows; row += this.part.rows) {
      for (let col = 0; col < cols; col += this.part.cols) {
        parts.push({
          row,
          rows: Math.min(this.part.rows, rows - row),
          col,
          cols: Math.min(this.part.cols, cols - col),
        });
      }
    }
    return parts;
  }

  private slabLoop(
    stmt: Mma,
    at: Part,
    { from, to, step }: { from: number; to: number; step: number },
  ): Stmt {
    const variable = `slab_${this.slabs++}`;
    const along: Index = { base: variable, offset: from };
    const { note } = stmt;
    const lhs = part(this.lhs!, step, at.rows);
    const rhs = part(this.rhs!, step, at.cols);
    const rows = { offset: start(at.row), count: at.rows };
    const cols = { offset: start(at.col), count: at.cols };
    const lhsSource: Window = stmt.transposeLhs
      ? { ...stmt.lhs, row: along, rows: step, col: rows.offset, cols: rows.count }
      : { ...stmt.lhs, row: rows.offset, rows: rows.count, col: along, cols: step };
    const rhsSource: Window = stmt.transposeRhs
      ? { ...stmt.rhs, row: cols.offset, rows: cols.count, col: along, cols: step }
      : { ...stmt.rhs, row: along, rows: step, col: cols.offset, cols: cols.count };
    const copy = (dst: Window, src: Window, transpose: boolean): Copy => ({
      kind: "copy",
      dst,
      src,
      transpose,
      note,
    });
    const body: Stmt[] = [
      copy(lhs, lhsSource, !stmt.transposeLhs),
      copy(rhs, rhsSource, stmt.transposeRhs),
      {
        kind: "mma",
        dst: { ...stmt.dst, row: start(at.row), rows: at.rows, col: start(at.col), cols: at.cols },
        lhs,
        rhs,
        transposeLhs: true,
        transposeRhs: false,
        ...(stmt.triangle && { triangle: { ...stmt.triangle, from: along } }),
        note,
      },
    ];
    return {
      kind: "loop",
      variable,
      extent: to - from,
      step,
      within: null,
      reverse: false,
      body,
      note,
    };
  }

  /** The columns of a register tile, a slab at a time: into shared memory, `work`, and back. */
  private inColumns(
    dst: StorageId,
    src: StorageId,
    note: string | null,
    work: (columns: StorageId) => Stmt,
  ): Stmt {
    this.changed = true;
    const [rows, cols] = this.storage(dst).shape as [number, number];
    const columns = this.columns!;
    if (columns.shape[0] !== rows) {
      throw new CompilerBug(`stage-operands: [${rows}, ${cols}] does not fit ${columns.name}`);
    }
    // Both are multiples of the block's side, the slab's width a power of two.
    const step = [64, 32, 16].find((size) => size <= columns.shape[1]! && cols % size === 0)!;
    const variable = `slab_${this.slabs++}`;
    const along: Index = { base: variable, offset: 0 };
    const slab = (storage: StorageId): Window => ({
      storage,
      row: start(0),
      rows,
      col: along,
      cols: step,
    });
    const staged = part(columns, rows, step);
    const body: Stmt[] = [
      { kind: "copy", dst: staged, src: slab(src), transpose: false, note },
      work(columns.id),
      { kind: "copy", dst: slab(dst), src: staged, transpose: false, note },
    ];
    return { kind: "loop", variable, extent: cols, step, within: null, reverse: false, body, note };
  }

  private sums(stmt: CumSumStmt): Stmt[] {
    const isTile = this.storage(stmt.src).shape.length === 2;
    if (!isTile || this.storage(stmt.src).memory === "shared") return [stmt];
    const summed = (id: StorageId): Stmt => ({ ...stmt, dst: id, src: id });
    return [this.inColumns(stmt.dst, stmt.src, stmt.note, summed)];
  }

  private solution(stmt: SolveStmt): Stmt[] {
    if (this.storage(stmt.dst).memory === "shared") return [stmt];
    const matrix = this.matrix!;
    const [rows] = this.storage(stmt.matrix).shape as [number, number];
    const { note } = stmt;
    const source = part(this.storage(stmt.matrix), rows, rows);
    const { transpose } = stmt;
    const staged = { ...stmt, matrix: matrix.id, transpose: false };
    return [
      { kind: "copy", dst: part(matrix, rows, rows), src: source, transpose, note },
      this.inColumns(stmt.dst, stmt.dst, note, (id) => ({ ...staged, dst: id })),
    ];
  }

  private rotation(stmt: RotateHalfStmt): Stmt[] {
    const source = this.storage(stmt.src);
    if (source.memory === "shared" || stmt.width % 32 === 0) return [stmt];
    this.changed = true;
    const [rows, cols] = source.shape as [number, number];
    const staged = this.newShared(`${source.name}_shared`, rows, cols);
    const { note } = stmt;
    return [
      {
        kind: "copy",
        dst: part(staged, rows, cols),
        src: part(source, rows, cols),
        transpose: false,
        note,
      },
      { ...stmt, src: staged.id },
    ];
  }
}

function elements(storage: Storage): number {
  const [rows, cols] = storage.shape;
  return cols === undefined ? (rows ?? 1) : rows! * (cols + storage.pad);
}

function start(offset: number): Index {
  return { base: null, offset };
}

function part(storage: Storage, rows: number, cols: number): Window {
  return { storage: storage.id, row: start(0), col: start(0), rows, cols };
}
