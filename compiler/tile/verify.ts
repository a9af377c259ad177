/**
 * What every tile program satisfies; a failure is a bug of the pass that made it. Windows are followed
 * through the loops they stand in, so that none leaves its tile in any iteration.
 */
import { CompilerBug } from "../support/never.ts";
import { arityOf } from "../tensor/verify.ts";
import type {
  Expr,
  GridAxis,
  Index,
  Kernel,
  Loop,
  Param,
  ReduceStmt,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  View,
  Window,
} from "./ir.ts";
import { columnAxis } from "./ir.ts";
import { copiedAhead, readsOf, writesOf } from "./accesses.ts";
import { printTile, stmtText } from "./print.ts";

/** Throws CompilerBug naming `after`, the pass that ran last, and showing the program. */
export function verifyTile(program: TileProgram, after: string): void {
  const fail = (why: string): never => {
    throw new CompilerBug(`${after}: ${why}`, printTile(program));
  };
  const names = program.kernels.map((kernel) => kernel.name);
  if (new Set(names).size !== names.length) fail(`${program.name}: two kernels share a name`);
  for (const kernel of program.kernels) {
    const problem = new Checker(kernel).firstProblem();
    if (problem !== null) fail(`kernel ${kernel.name}: ${problem}`);
  }
}

class Problem extends Error {}

/** The largest value each variable in scope takes; Infinity where the tokens decide. */
type Variables = ReadonlyMap<string, number>;

class Checker {
  private readonly storages: ReadonlyMap<StorageId, Storage>;
  private readonly kernel: Kernel;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.storages = new Map(kernel.storages.map((storage) => [storage.id, storage]));
  }

  firstProblem(): string | null {
    try {
      this.checkHead();
      const { grid, body } = this.kernel;
      this.checkBody(body, new Map(grid.map((axis) => [axis.name, lastOf(axis)])));
      this.checkRoles();
      return null;
    } catch (error) {
      if (error instanceof Problem) return error.message;
      throw error;
    }
  }

  private checkHead(): void {
    const { storages, params, grid } = this.kernel;
    unique(storages, "storages");
    unique(params, "params");
    unique(grid, "grid axes");
    if (storages.some(({ id }, i) => id !== i)) throw new Problem("storage ids skip a number");
    grid.forEach(checkRange);
    for (const { name, shape, memory, pad } of storages) {
      if (shape.length > 2 || shape.some((size) => !isCount(size))) {
        throw new Problem(`${name} has shape [${shape.join(", ")}]`);
      }
      if (shape.length === 0 && memory !== "register") throw new Problem(`${name} is no register`);
      if (pad > 0 && (memory !== "shared" || shape.length !== 2)) {
        throw new Problem(`${name} has a pad but is no shared tile`);
      }
    }
    const columns = columnAxis(this.kernel);
    const blocks = columns === undefined ? 0 : Math.ceil(Number(columns.extent) / columns.step);
    for (const { name, per, shape, chunk, shares } of params) {
      if (shares !== undefined && (shares !== blocks || per === "head" || per === "shared")) {
        throw new Problem(`${name} is per ${per} and has ${shares} shares of ${blocks} blocks`);
      }
      if ((per === "chunk") !== isCount(chunk ?? 0))
        throw new Problem(`${name} has chunks of ${chunk}`);
      if (shape.length > 2) throw new Problem(`${name} has shape [${shape.join(", ")}]`);
      if ((per === "token") !== (shape[0] === "T") || shape.slice(1).includes("T")) {
        throw new Problem(`${name} is per ${per} but has shape [${shape.join(", ")}]`);
      }
    }
  }

  /** Each storage is one role's, or all roles do the same to it; registers are nobody else's. */
  private checkRoles(): void {
    const { roles, body, threads } = this.kernel;
    if (roles && roles.reduce((sum, one) => sum + one, 0) !== threads) {
      throw new Problem(`roles of ${roles.join(" and ")} threads are not ${threads} in all`);
    }
    const owners = new Map<StorageId, number | undefined>();
    const each = (stmts: readonly Stmt[], see: (stmt: Stmt) => void): void => {
      for (const stmt of stmts) {
        if (stmt.kind === "loop") each(stmt.body, see);
        else see(stmt);
      }
    };
    each(body, (stmt) => {
      const { role } = stmt;
      if (role !== undefined && !(role < (roles ?? []).length))
        throw new Problem(`there is no role ${role}`);
      for (const id of writesOf(stmt)) {
        if (owners.has(id) && owners.get(id) !== role) {
          throw new Problem(`${this.storage(id).name} is written by two roles`);
        }
        owners.set(id, role);
      }
    });
    each(body, (stmt) => {
      for (const id of readsOf(stmt)) {
        const owner = owners.get(id);
        const { name, memory } = this.storage(id);
        if (memory === "register" && owner !== undefined && owner !== stmt.role) {
          throw new Problem(`${name} is another role's`);
        }
      }
    });
    this.checkSignals(body);
  }

  /** What another role writes in a turn is read behind its signal. */
  private checkSignals(body: readonly Stmt[]): void {
    /** Who wrote a shared storage, the signal behind that, and the roles that waited for it. */
    const written = new Map<StorageId, { by: number; number: number | null; seen: Set<number> }>();
    for (const stmt of body) {
      const { role } = stmt;
      if (stmt.kind === "loop") this.checkSignals(stmt.body);
      if (role === undefined || stmt.kind === "loop") continue;
      for (const one of written.values()) {
        if (stmt.kind === "signal" && one.by === role) one.number ??= stmt.number;
        if (stmt.kind === "await" && one.number === stmt.number) one.seen.add(role);
      }
      for (const id of readsOf(stmt)) {
        const one = written.get(id);
        if (one && one.by !== role && !one.seen.has(role)) {
          throw new Problem(`${this.storage(id).name} is read before it is handed over`);
        }
      }
      if (stmt.kind === "copy-async") continue;
      for (const id of writesOf(stmt)) {
        if (this.storage(id).memory !== "shared") continue;
        written.set(id, { by: role, number: null, seen: new Set() });
      }
    }
  }

  private checkBody(body: readonly Stmt[], variables: Variables): void {
    for (const stmt of body) {
      if (stmt.kind === "loop") {
        this.checkLoop(stmt, variables);
        continue;
      }
      try {
        this.checkStmt(stmt, variables);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        const text = stmtText(stmt, (id) => this.storages.get(id)?.name ?? `?${id}`);
        throw new Problem(`${error.message} in: ${text}`);
      }
    }
  }

  private checkLoop(loop: Loop, variables: Variables): void {
    const { variable, extent, step, within } = loop;
    if (variables.has(variable)) throw new Problem(`${variable} is shadowed`);
    checkRange({ name: variable, extent, step });
    if (within !== null) {
      if (!variables.has(within.base)) throw new Problem(`there is no variable ${within.base}`);
      if (within.length % step !== 0) {
        throw new Problem(`a part of ${within.length} is no multiple of the step ${step}`);
      }
    }
    // Else what the turn before reads of that place may be read still.
    const wait = loop.body.findIndex(({ kind }) => kind === "wait");
    const early = loop.body.slice(0, wait < 0 ? undefined : wait);
    for (const id of copiedAhead(early)) {
      throw new Problem(`${this.storage(id).name} is copied ahead before its turn's wait`);
    }
    const last = lastOf({ name: variable, extent, step });
    this.checkBody(loop.body, new Map([...variables, [variable, last]]));
  }

  private storage(id: StorageId): Storage {
    const storage = this.storages.get(id);
    if (!storage) throw new Problem(`there is no storage ${id}`);
    return storage;
  }

  private checkStmt(stmt: Exclude<Stmt, { kind: "loop" }>, variables: Variables): void {
    switch (stmt.kind) {
      case "load":
        this.checkView(stmt.view, "read", this.storage(stmt.dst), variables);
        return;
      case "copy-async": {
        const dst = this.storage(stmt.dst);
        // Rows may be copied ahead of a loop that runs backwards.
        const { dtype } = this.checkView(stmt.view, "read", dst, variables, -Infinity);
        if (dst.memory !== "shared") {
          throw new Problem("an asynchronous copy needs shared memory");
        }
        if (dst.dtype !== dtype) throw new Problem("an asynchronous copy converts nothing");
        if (!(stmt.ahead >= 0 && stmt.ahead < (dst.places ?? 1))) {
          throw new Problem(`${dst.name} has no place for a copy ${stmt.ahead} turns ahead`);
        }
        return;
      }
      case "store":
        this.checkView(stmt.view, "write", this.storage(stmt.src), variables);
        return;
      case "copy": {
        this.checkWindow(stmt.dst, variables);
        this.checkWindow(stmt.src, variables);
        const [rows, cols] = sizesOf(stmt.src, stmt.transpose);
        if (rows !== stmt.dst.rows || cols !== stmt.dst.cols) throw new Problem("sizes differ");
        this.checkApart(stmt.dst.storage, [stmt.src.storage]);
        return;
      }
      case "map":
        return this.checkExpr(stmt.expr, this.storage(stmt.dst), variables);
      case "mma": {
        for (const window of [stmt.dst, stmt.lhs, stmt.rhs]) this.checkWindow(window, variables);
        const lhs = sizesOf(stmt.lhs, stmt.transposeLhs);
        const rhs = sizesOf(stmt.rhs, stmt.transposeRhs);
        if (lhs[1] !== rhs[0] || lhs[0] !== stmt.dst.rows || rhs[1] !== stmt.dst.cols) {
          throw new Problem("sizes do not fit a product");
        }
        this.checkApart(stmt.dst.storage, [stmt.lhs.storage, stmt.rhs.storage]);
        return;
      }
      case "reduce":
        return this.checkReduce(stmt);
      case "fold": {
        const [dst, src] = [this.storage(stmt.dst), this.storage(stmt.src)];
        const kept = src.shape[stmt.axis === "col" ? 0 : 1];
        if (dst.memory !== "shared" || src.shape.length !== 2 || dst.shape[0] !== kept) {
          throw new Problem(`${dst.name} does not hold what is folded`);
        }
        return;
      }
      case "mma-parts": {
        const [dst, lhs, rhs] = [stmt.dst, stmt.lhs, stmt.rhs].map((id) => this.storage(id));
        const isHeld = [lhs!, rhs!].every(({ memory, shape }) => {
          return memory === "register" && shape.length === 2 && shape[1] === lhs!.shape[1];
        });
        if (!isHeld) throw new Problem("factors of parts are register tiles of one width");
        const isWhole = dst!.shape[0]! % lhs!.shape[0]! === 0 && dst!.shape[1] === rhs!.shape[0];
        if (dst!.memory !== "shared" || !isWhole) {
          throw new Problem(`${dst!.name} does not hold the parts of a product`);
        }
        return;
      }
      case "join": {
        const [dst, src] = [this.storage(stmt.dst).shape, this.storage(stmt.src).shape];
        const fits =
          dst.length === 1
            ? dst[0] === src[0]
            : dst[1] === src[1] && Number.isInteger(src[0]! / dst[0]!);
        if (src.length !== 2 || !fits) throw new Problem("sizes differ");
        return;
      }
      case "cumsum":
      case "rotate-half": {
        const [dst, src] = [this.storage(stmt.dst).shape, this.storage(stmt.src).shape];
        if (dst.length === 0 || dst.join() !== src.join()) throw new Problem("sizes differ");
        if (stmt.kind === "cumsum") {
          if (stmt.block !== null && !(isCount(stmt.block) && src[0]! % stmt.block === 0)) {
            throw new Problem(`blocks of ${stmt.block} do not divide the rows`);
          }
          if (stmt.earlier && (stmt.block === null || src.length !== 2)) {
            throw new Problem("only blocks of a tile's rows are earlier");
          }
          if (stmt.part && (stmt.block !== null || src.length !== 1)) {
            throw new Problem("only sums of whole vectors have parts");
          }
          return;
        }
        this.checkApart(stmt.dst, [stmt.src]);
        const { width } = stmt;
        const fits = isCount(width) && width % 2 === 0 && width <= src.at(-1)!;
        if (!fits) throw new Problem(`halves of ${width} columns do not fit`);
        return;
      }
      case "solve": {
        const [dst, matrix] = [this.storage(stmt.dst).shape, this.storage(stmt.matrix).shape];
        const isSquare = matrix.length === 2 && matrix[0] === matrix[1];
        if (!isSquare || dst.length !== 2 || dst[0] !== matrix[0]) {
          throw new Problem("sizes do not fit a triangular solve");
        }
        return this.checkApart(stmt.dst, [stmt.matrix]);
      }
      case "invert": {
        const { shape, name } = this.storage(stmt.dst);
        if (shape.length !== 2 || shape[0] !== shape[1]) throw new Problem(`${name} is no square`);
        return;
      }
      case "wait":
        if (!(stmt.pending >= 0)) throw new Problem("a wait for less than nothing");
        return;
      case "barrier":
        return;
      case "signal":
      case "await":
        if (stmt.role === undefined) throw new Problem("it belongs to a role");
        return;
    }
  }

  /** Threads run through a statement at their own pace: it must not write what it still reads. */
  private checkApart(dst: StorageId, sources: readonly StorageId[]): void {
    if (sources.includes(dst)) throw new Problem(`${this.storage(dst).name} is read and written`);
  }

  private checkReduce(stmt: ReduceStmt): void {
    const [dst, src] = [this.storage(stmt.dst).shape, this.storage(stmt.src).shape];
    if (src.length === 0) throw new Problem("a scalar has nothing to fold");
    if (src.length === 1 && stmt.axis !== "row") throw new Problem("a vector has no columns");
    const kept = src.length === 2 ? [src[stmt.axis === "col" ? 0 : 1]] : [];
    if (dst.length !== kept.length || dst[0] !== kept[0]) throw new Problem("sizes differ");
    if (stmt.scratch === null) return;
    const { shape, memory, name } = this.storage(stmt.scratch);
    if (memory !== "shared" || !foldLanes.includes(shape[1]!) || shape[0]! % foldRows !== 0) {
      throw new Problem(`${name} does not hold the partial results`);
    }
  }

  private checkIndex({ base, offset }: Index, variables: Variables, least = 0): number {
    const last = base === null ? 0 : variables.get(base);
    if (last === undefined) throw new Problem(`${base} is not in scope`);
    if (!Number.isInteger(offset) || offset < least) throw new Problem(`the offset is ${offset}`);
    return last + offset;
  }

  /** The param of a view that fits `storage` and is there for `access`. */
  private checkView(
    view: View,
    access: Param["access"],
    storage: Storage,
    variables: Variables,
    leastRow = 0,
  ): Param {
    const param = this.kernel.params.find((candidate) => candidate.name === view.param);
    if (!param) throw new Problem(`there is no param ${view.param}`);
    if (param.access !== access) throw new Problem(`${view.param} is not for ${access}`);
    if (param.shape.length !== storage.shape.length) {
      throw new Problem(`${view.param} and ${storage.name} differ in rank`);
    }
    if ((param.per === "chunk") !== (view.token !== undefined)) {
      throw new Problem(`${view.param} is ${param.per === "chunk" ? "" : "not "}stored per chunk`);
    }
    const token = view.token === undefined ? [] : [view.token];
    this.checkIndex(view.row, variables, leastRow);
    for (const index of token) this.checkIndex(index, variables, leastRow);
    this.checkIndex(view.col, variables);
    return param;
  }

  private checkWindow(window: Window, variables: Variables): void {
    const { shape, name } = this.storage(window.storage);
    if (shape.length !== 2) throw new Problem(`${name} is no tile`);
    for (const [index, size, whole] of [
      [window.row, window.rows, shape[0]!],
      [window.col, window.cols, shape[1]!],
    ] as const) {
      if (!isCount(size)) throw new Problem(`a window of ${size}`);
      if (this.checkIndex(index, variables) + size > whole) {
        throw new Problem(`the window leaves ${name}`);
      }
    }
  }

  private checkExpr(expr: Expr, dst: Storage, variables: Variables): void {
    switch (expr.kind) {
      case "read": {
        const { shape, name } = this.storage(expr.storage);
        const rank = { tile: 2, row: 1, col: 1, scalar: 0 }[expr.at];
        if (shape.length !== rank) throw new Problem(`${name} is not read as a ${expr.at}`);
        if (expr.at === "tile" && shape.join() !== dst.shape.join()) {
          throw new Problem(`${name} has another size than ${dst.name}`);
        }
        const along = expr.at === "row" ? dst.shape[0] : expr.at === "col" ? dst.shape[1] : null;
        if (along !== null && along !== shape[0]) {
          throw new Problem(`${name} does not run along the ${expr.at} of ${dst.name}`);
        }
        return;
      }
      case "index":
      case "inside":
        this.checkIndex(expr.start, variables);
        // A scalar is its own row and column 0.
        if (dst.shape.length === 1 && expr.axis === "col") {
          throw new Problem(`${dst.name} is a vector and has no columns`);
        }
        return;
      case "call":
        if (expr.args.length !== arityOf(expr.fn)) {
          throw new Problem(`${expr.fn} takes ${arityOf(expr.fn)} operands`);
        }
        for (const arg of expr.args) this.checkExpr(arg, dst, variables);
        return;
      case "const":
      case "runtime":
    }
  }
}

/** Columns that the scratch of a fold of a register tile may have, and of what its rows are a multiple; see `ReduceStmt`. */
const foldLanes = [8, 16];
const foldRows = 16;

function isCount(size: number): boolean {
  return Number.isInteger(size) && size > 0;
}

function unique(things: readonly { readonly name: string }[], what: string): void {
  if (new Set(things.map(({ name }) => name)).size !== things.length) {
    throw new Problem(`two ${what} share a name`);
  }
}

function checkRange({ name, extent, step }: GridAxis): void {
  if (!isCount(step) || (extent !== "T" && !isCount(extent))) {
    throw new Problem(`${name} runs below ${extent} by ${step}`);
  }
}

function lastOf({ extent, step }: GridAxis): number {
  return extent === "T" ? Infinity : (Math.ceil(extent / step) - 1) * step;
}

/** Rows and columns of a window, exchanged when it is read turned. */
function sizesOf(window: Window, isTurned: boolean): readonly [number, number] {
  return isTurned ? [window.cols, window.rows] : [window.rows, window.cols];
}
