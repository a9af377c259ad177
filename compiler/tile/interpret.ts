/**
 * What a tile program means: plain loops in float64, one grid point after another. Storages start as
 * NaN, so that what is read before it is written shows.
 */
import { copiedAhead } from "./accesses.ts";
import { CompilerBug } from "../support/never.ts";
import { functionOf } from "../tensor/functions.ts";
import type {
  Expr,
  Index,
  Kernel,
  Param,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  View,
  Window,
  Mma,
} from "./ir.ts";
import { type SumPart, columnAxis, sumParts } from "./ir.ts";

/** Run-time integers: B, T, H, T_total, token_offset, packed, and H_<name> where it is not H. */
export type TileSizes = Readonly<Record<string, number>>;

/** In float64 numbers mean what they say; in float32 every number that is stored is rounded. */
export type Numbers = Float64Array | Float32Array;

/**
 * Runs all kernels in order; `buffers` hold whole tensors by name and are written in place. Storages hold numbers as
 * the buffers do.
 */
export function interpretTile<Own extends Numbers>(
  program: TileProgram,
  buffers: ReadonlyMap<string, Own>,
  sizes: TileSizes,
): void {
  for (const kernel of program.kernels) {
    const heads = sizes["B"]! * sizes["H"]!;
    for (let point = 0; point < heads; point++)
      runAxes(kernel, buffers, sizes, point, 0, new Map());
  }
}

function runAxes(
  kernel: Kernel,
  buffers: ReadonlyMap<string, Numbers>,
  sizes: TileSizes,
  point: number,
  depth: number,
  variables: Map<string, number>,
): void {
  const axis = kernel.grid[depth];
  if (!axis) {
    const one = new Point(kernel, buffers, sizes, point, variables);
    if (!one.isBeyondSequence) one.run(kernel.body);
    return;
  }
  const extent = axis.extent === "T" ? sizes["T"]! : axis.extent;
  for (let at = 0; at < extent; at += axis.step) {
    const inner = new Map(variables).set(axis.name, at);
    runAxes(kernel, buffers, sizes, point, depth + 1, inner);
  }
}

/** One grid point: its storages and variables. */
class Point {
  private readonly data: Numbers[];
  private readonly kernel: Kernel;
  private readonly buffers: ReadonlyMap<string, Numbers>;
  private readonly sizes: TileSizes;
  /** Where packed sequences begin; null: each row of the batch is one. */
  private readonly cuts: Numbers | null;
  private readonly firstToken: number;
  private readonly tokens: number;
  private readonly batch: number;
  private readonly head: number;
  private readonly variables: Map<string, number>;
  /** What storages of several places hold in those they have later, the next one first. */
  private readonly later: readonly Numbers[][];
  /** Is this the first turn of the innermost loop, and how many are behind it? */
  private isFirstTurn = true;
  private turnsLeft = 0;

  constructor(
    kernel: Kernel,
    buffers: ReadonlyMap<string, Numbers>,
    sizes: TileSizes,
    point: number,
    variables: Map<string, number>,
  ) {
    this.kernel = kernel;
    this.buffers = buffers;
    this.sizes = sizes;
    this.batch = Math.floor(point / sizes["H"]!);
    this.cuts = sizes["packed"] === 1 ? buffers.get("cu_seqlens")! : null;
    this.firstToken = this.cuts?.[this.batch] ?? this.batch * sizes["T"]!;
    this.tokens = this.cuts === null ? sizes["T"]! : this.cuts[this.batch + 1]! - this.firstToken;
    this.head = point % sizes["H"]!;
    this.variables = variables;
    const [first] = buffers.values();
    const make = first instanceof Float32Array ? Float32Array : Float64Array;
    const place = ({ shape }: Storage) =>
      new make(shape.reduce((product, n) => product * n, 1)).fill(NaN);
    this.data = kernel.storages.map(place);
    this.later = kernel.storages.map((storage) =>
      Array.from({ length: (storage.places ?? 1) - 1 }, () => place(storage)),
    );
  }

  /** Does a grid axis over tokens stand behind this sequence's own? */
  get isBeyondSequence(): boolean {
    return this.kernel.grid.some(
      ({ name, extent }) => extent === "T" && this.variables.get(name)! >= this.tokens,
    );
  }

  run(body: readonly Stmt[]): void {
    for (const stmt of body) this.statement(stmt);
  }

  private storage(id: StorageId): Storage {
    return this.kernel.storages[id]!;
  }

  private index({ base, offset }: Index): number {
    return (base === null ? 0 : this.variables.get(base)!) + offset;
  }

  /** Where element (row, col) of a view lies in its whole buffer, or -1 outside of it. */
  private places(view: View): (row: number, col: number) => number {
    const param = this.kernel.params.find(({ name }) => name === view.param)!;
    const [firstRow, firstCol] = [this.index(view.row), this.index(view.col)];
    const [rows = 1, cols = 1] = param.shape.map((dim) => (dim === "T" ? this.tokens : dim));
    const heads = this.heads(param);
    const chunk = param.chunk ?? 1;
    const firstChunk =
      this.cuts === null
        ? this.batch * Math.ceil(this.tokens / chunk)
        : Math.floor(this.firstToken / chunk) + this.batch;
    const at = view.token === undefined ? 0 : Math.floor(this.index(view.token) / chunk);
    const part = Math.floor(this.head / (this.sizes["H"]! / heads));
    // Of what each block of columns has its own share, the share's number among those of the head.
    const { shares = 1 } = param;
    const columns = columnAxis(this.kernel);
    const share = shares === 1 ? 0 : this.variables.get(columns!.name)! / columns!.step;
    const shareOf = (head: number) => head * shares + share;
    // The first element of what belongs to this batch and head, and how far apart rows lie there.
    const [first, stride] = {
      token: [shareOf(this.firstToken * heads + part) * cols, heads * shares * cols],
      state: [shareOf(this.batch * this.sizes["H"]! + this.head) * rows * cols, cols],
      head: [part * rows * cols, cols],
      shared: [0, cols],
      chunk: [shareOf((firstChunk + at) * heads + this.head) * rows * cols, cols],
    }[param.per] as [number, number];
    return (row, col) => {
      const [r, c] = [firstRow + row, firstCol + col];
      return r < rows && c < cols ? first + r * stride + c : -1;
    };
  }

  private heads(param: Param): number {
    return this.sizes[param.heads] ?? this.sizes["H"]!;
  }

  /** Calls `body` with every element of a storage: row, column, place in its data. */
  private each(id: StorageId, body: (row: number, col: number, at: number) => void): void {
    const [rows = 1, cols = 1] = this.storage(id).shape;
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) body(row, col, row * cols + col);
    }
  }

  private statement(stmt: Stmt): void {
    switch (stmt.kind) {
      case "load":
      case "copy-async": {
        const ahead = stmt.kind === "copy-async" ? stmt.ahead : 0;
        if (stmt.kind === "copy-async" && stmt.turns === "first" && !this.isFirstTurn) return;
        if (ahead > this.turnsLeft) return;
        const to = ahead === 0 ? this.data[stmt.dst]! : this.later[stmt.dst]![ahead - 1]!;
        const from = this.buffers.get(stmt.view.param)!;
        const placeOf = this.places(stmt.view);
        this.each(stmt.dst, (row, col, at) => {
          const place = placeOf(row, col);
          to[at] = place < 0 ? 0 : from[place]!;
        });
        return;
      }
      case "store": {
        const [from, to] = [this.data[stmt.src]!, this.buffers.get(stmt.view.param)!];
        const placeOf = this.places(stmt.view);
        this.each(stmt.src, (row, col, at) => {
          const place = placeOf(row, col);
          if (place >= 0) to[place] = from[at]!;
        });
        return;
      }
      case "copy": {
        const { dst, src, transpose } = stmt;
        for (let row = 0; row < dst.rows; row++) {
          for (let col = 0; col < dst.cols; col++) {
            const value = transpose ? this.read(src, col, row) : this.read(src, row, col);
            // Without rounding nothing is left over.
            this.data[dst.storage]![this.at(dst, row, col)] = stmt.rest ? 0 : value;
          }
        }
        return;
      }
      case "map": {
        const to = this.data[stmt.dst]!;
        this.each(stmt.dst, (row, col, at) => (to[at] = this.expr(stmt.expr, row, col, at)));
        return;
      }
      case "mma": {
        const { dst, lhs, rhs } = stmt;
        const depth = stmt.transposeLhs ? lhs.rows : lhs.cols;
        for (let row = 0; row < dst.rows; row++) {
          for (let col = 0; col < dst.cols; col++) {
            let sum = 0;
            for (let k = 0; k < depth; k++) {
              if (!this.isTerm(stmt, row, k)) continue;
              const a = stmt.transposeLhs ? this.read(lhs, k, row) : this.read(lhs, row, k);
              const b = stmt.transposeRhs ? this.read(rhs, col, k) : this.read(rhs, k, col);
              sum += a * b;
            }
            this.data[dst.storage]![this.at(dst, row, col)]! += sum;
          }
        }
        return;
      }
      case "fold": {
        const [to, from] = [this.data[stmt.dst]!, this.data[stmt.src]!];
        const parts = this.storage(stmt.dst).shape[1] ?? 1;
        const fold = folding(stmt.fn);
        to.fill(fold.start);
        this.each(stmt.src, (row, col, at) => {
          // Which part an element is of is the target's choice.
          const place = (stmt.axis === "col" ? row : col) * parts + ((row + col) % parts);
          to[place] = fold.of(to[place]!, from[at]!);
        });
        return;
      }
      case "mma-parts": {
        const [to, a, b] = [stmt.dst, stmt.lhs, stmt.rhs].map((id) => this.data[id]!);
        const [left, right] = [stmt.lhs, stmt.rhs].map((id) => this.storage(id).shape);
        const [rows, depth] = left as [number, number];
        const [cols] = right as [number];
        const piece = (depth * rows) / this.storage(stmt.dst).shape[0]!;
        this.each(stmt.dst, (row, col, at) => {
          const first = Math.floor(row / rows) * piece;
          let sum = 0;
          for (let k = first; k < first + piece; k++) {
            sum += a![(row % rows) * depth + k]! * b![(col % cols) * depth + k]!;
          }
          to![at] = sum;
        });
        return;
      }
      case "join": {
        const [to, from] = [this.data[stmt.dst]!, this.data[stmt.src]!];
        const fold = folding(stmt.fn);
        to.fill(fold.start);
        const isVector = this.storage(stmt.dst).shape.length === 1;
        this.each(stmt.src, (row, _col, at) => {
          const place = isVector ? row : at % to.length;
          to[place] = fold.of(to[place]!, from[at]!);
        });
        return;
      }
      case "reduce": {
        const [to, from] = [this.data[stmt.dst]!, this.data[stmt.src]!];
        const isVector = this.storage(stmt.src).shape.length === 1;
        const fold = folding(stmt.fn);
        to.fill(fold.start);
        this.each(stmt.src, (row, col, at) => {
          const kept = isVector ? 0 : stmt.axis === "col" ? row : col;
          to[kept] = fold.of(to[kept]!, from[at]!);
        });
        return;
      }
      case "cumsum":
        return this.cumsum(stmt);
      case "solve":
        return this.solve(stmt);
      case "invert":
        return this.invert(stmt.dst);
      case "rotate-half": {
        const [to, from] = [this.data[stmt.dst]!, this.data[stmt.src]!];
        const half = stmt.width / 2;
        this.each(stmt.dst, (_row, col, at) => {
          to[at] = col < half ? -from[at + half]! : col < stmt.width ? from[at - half]! : 0;
        });
        return;
      }
      case "loop":
        return this.loop(stmt);
      case "barrier":
      case "signal":
      case "await":
      case "wait":
        return;
    }
  }

  private loop(stmt: Stmt & { kind: "loop" }): void {
    const { within } = stmt;
    const whole = stmt.extent === "T" ? this.tokens : stmt.extent;
    const first = within === null ? 0 : this.variables.get(within.base)!;
    const extent = within === null ? whole : Math.min(whole, first + within.length);
    const starts: number[] = [];
    for (let at = first; at < extent; at += stmt.step) starts.push(at);
    const outer = [this.isFirstTurn, this.turnsLeft] as const;
    const rings = new Set(copiedAhead(stmt.body));
    for (const [turn, at] of (stmt.reverse ? starts.reverse() : starts).entries()) {
      this.variables.set(stmt.variable, at);
      for (const inner of stmt.body) {
        this.isFirstTurn = turn === 0;
        this.turnsLeft = starts.length - 1 - turn;
        this.statement(inner);
      }
      for (const id of rings) {
        this.later[id]!.push(this.data[id]!);
        this.data[id] = this.later[id]!.shift()!;
      }
    }
    [this.isFirstTurn, this.turnsLeft] = outer;
    this.variables.delete(stmt.variable);
  }

  private isTerm({ dst, triangle }: Mma, row: number, k: number): boolean {
    if (!triangle) return true;
    const behind = this.index(dst.row) + row - this.index(triangle.from) - k;
    const within = triangle.upper ? -behind : behind;
    return triangle.strict ? within > 0 : within >= 0;
  }

  private cumsum(stmt: Stmt & { kind: "cumsum" }): void {
    const [to, from] = [this.data[stmt.dst]!, this.data[stmt.src]!];
    const [rows = 1, cols = 1] = this.storage(stmt.src).shape;
    const block = stmt.block ?? rows;
    for (let col = 0; col < cols; col++) {
      for (let first = 0; first < rows; first += block) {
        const isEarlier = (first / block) % 2 === 0;
        const { reverse, exclusive } = (isEarlier ? stmt.earlier : undefined) ?? stmt;
        let sum = 0;
        for (let step = 0; step < block; step++) {
          const at = (first + (reverse ? block - 1 - step : step)) * cols + col;
          const own = stmt.part ? partOf(stmt.part, from[at]!) : from[at]!;
          to[at] = exclusive ? sum : sum + own;
          sum += own;
        }
      }
    }
  }

  private solve({ dst, matrix, upper, transpose }: Stmt & { kind: "solve" }): void {
    const [to, factors] = [this.data[dst]!, this.data[matrix]!];
    const [rows, cols] = this.storage(dst).shape as [number, number];
    const place = (step: number) => (upper ? rows - 1 - step : step);
    for (let step = 0; step < rows; step++) {
      for (let before = 0; before < step; before++) {
        const [i, j] = transpose ? [place(before), place(step)] : [place(step), place(before)];
        const factor = factors[i * rows + j]!;
        for (let col = 0; col < cols; col++) {
          to[place(step) * cols + col]! += factor * to[place(before) * cols + col]!;
        }
      }
    }
  }

  private invert(dst: StorageId): void {
    const data = this.data[dst]!;
    const [size] = this.storage(dst).shape as [number];
    for (let row = 0; row < size; row++) {
      const factors = data.slice(row * size, row * size + row);
      for (let col = 0; col < size; col++) {
        let sum = col < row ? factors[col]! : 0;
        for (let k = col + 1; k < row; k++) sum += factors[k]! * data[k * size + col]!;
        data[row * size + col] = sum;
      }
    }
  }

  private at(window: Window, row: number, col: number): number {
    const cols = this.storage(window.storage).shape[1]!;
    return (this.index(window.row) + row) * cols + this.index(window.col) + col;
  }

  private read(window: Window, row: number, col: number): number {
    return this.data[window.storage]![this.at(window, row, col)]!;
  }

  private expr(expr: Expr, row: number, col: number, at: number): number {
    const own = (axis: "row" | "col") => (axis === "row" ? row : col);
    switch (expr.kind) {
      case "const":
        return expr.value;
      case "read": {
        const data = this.data[expr.storage]!;
        if (expr.at === "tile") return data[at]!;
        return data[expr.at === "scalar" ? 0 : own(expr.at)]!;
      }
      case "index":
        return (
          this.index(expr.start) + own(expr.axis) + (expr.global ? this.sizes["token_offset"]! : 0)
        );
      case "inside": {
        const limit = expr.limit === "T" ? this.tokens : expr.limit;
        return this.index(expr.start) + own(expr.axis) < limit ? 1 : 0;
      }
      case "runtime":
        if (this.cuts !== null || expr.scalar === "T") return this.tokens;
        return this.sizes[expr.scalar] ?? this.missing(expr.scalar);
      case "call": {
        const args = expr.args.map((arg) => this.expr(arg, row, col, at));
        return functionOf(expr.fn)(...args);
      }
    }
  }

  private missing(name: string): never {
    throw new CompilerBug(`interpret: the run-time size ${name} is not given`);
  }
}

function folding(fn: "sum" | "max"): { start: number; of: (a: number, b: number) => number } {
  return fn === "sum" ? { start: 0, of: (a, b) => a + b } : { start: -Infinity, of: Math.max };
}

function partOf(part: SumPart, value: number): number {
  const { quantum, deepest } = sumParts;
  const each = value < deepest ? deepest : value;
  const coarse = Math.floor(each / quantum + 0.5) * quantum;
  return part === "coarse" ? coarse : each - coarse;
}
