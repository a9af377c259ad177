/** What every tile program satisfies; a failure is a bug of the pass that made it. */
import { CompilerBug } from "../support/never.ts";
import type { Expr, Kernel, Stmt, Storage, StorageId, TileProgram, View, Window } from "./ir.ts";
import { printTile, stmtText } from "./print.ts";

/** Throws CompilerBug naming `after`, the pass that ran last, and showing the program. */
export function verifyTile(program: TileProgram, after: string): void {
  for (const kernel of program.kernels) {
    const problem = new Checker(kernel).firstProblem();
    if (problem !== null) {
      throw new CompilerBug(`${after}: kernel ${kernel.name}: ${problem}`, printTile(program));
    }
  }
}

class Problem extends Error {}

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
      this.checkBody(this.kernel.body, new Set(this.kernel.grid.map((axis) => axis.name)));
      return null;
    } catch (error) {
      if (error instanceof Problem) return error.message;
      throw error;
    }
  }

  private checkHead(): void {
    const { storages, params } = this.kernel;
    const names = storages.map((storage) => storage.name);
    if (new Set(names).size !== names.length) throw new Problem("two storages share a name");
    if (new Set(params.map((param) => param.name)).size !== params.length) {
      throw new Problem("two params share a name");
    }
    for (const { name, shape, memory } of storages) {
      if (shape.length > 2 || shape.some((size) => !(size > 0))) {
        throw new Problem(`${name} has shape [${shape.join(", ")}]`);
      }
      if (shape.length === 0 && memory !== "register") throw new Problem(`${name} is no register`);
    }
  }

  private checkBody(body: readonly Stmt[], variables: ReadonlySet<string>): void {
    for (const stmt of body) {
      if (stmt.kind === "loop") {
        if (variables.has(stmt.variable)) throw new Problem(`${stmt.variable} is shadowed`);
        this.checkBody(stmt.body, new Set([...variables, stmt.variable]));
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

  private storage(id: StorageId): Storage {
    const storage = this.storages.get(id);
    if (!storage) throw new Problem(`there is no storage ${id}`);
    return storage;
  }

  private checkStmt(stmt: Exclude<Stmt, { kind: "loop" }>, variables: ReadonlySet<string>): void {
    switch (stmt.kind) {
      case "load":
      case "copy-async":
        this.checkView(stmt.view, "read", variables);
        if (stmt.kind === "copy-async" && this.storage(stmt.dst).memory !== "shared") {
          throw new Problem("an asynchronous copy needs shared memory");
        }
        this.storage(stmt.dst);
        break;
      case "store":
        this.checkView(stmt.view, "write", variables);
        this.storage(stmt.src);
        break;
      case "copy": {
        this.checkWindow(stmt.dst, variables);
        this.checkWindow(stmt.src, variables);
        const [rows, cols] = stmt.transpose
          ? [stmt.src.cols, stmt.src.rows]
          : [stmt.src.rows, stmt.src.cols];
        if (rows !== stmt.dst.rows || cols !== stmt.dst.cols) throw new Problem("sizes differ");
        break;
      }
      case "map":
        this.checkExpr(stmt.expr, this.storage(stmt.dst), variables);
        break;
      case "mma": {
        for (const window of [stmt.dst, stmt.lhs, stmt.rhs]) this.checkWindow(window, variables);
        const lhs = stmt.transposeLhs
          ? [stmt.lhs.cols, stmt.lhs.rows]
          : [stmt.lhs.rows, stmt.lhs.cols];
        const rhs = stmt.transposeRhs
          ? [stmt.rhs.cols, stmt.rhs.rows]
          : [stmt.rhs.rows, stmt.rhs.cols];
        if (lhs[1] !== rhs[0] || lhs[0] !== stmt.dst.rows || rhs[1] !== stmt.dst.cols) {
          throw new Problem("sizes do not fit a product");
        }
        break;
      }
      case "reduce": {
        const [dst, src] = [this.storage(stmt.dst).shape, this.storage(stmt.src).shape];
        const kept = src.length === 2 ? [src[stmt.axis === "col" ? 0 : 1]] : [];
        if (dst.length !== kept.length || dst[0] !== kept[0]) throw new Problem("sizes differ");
        if (stmt.scratch !== null) this.storage(stmt.scratch);
        break;
      }
      case "cumsum":
      case "rotate-half": {
        const [dst, src] = [this.storage(stmt.dst).shape, this.storage(stmt.src).shape];
        if (dst.join() !== src.join()) throw new Problem("sizes differ");
        break;
      }
      case "wait":
      case "barrier":
        break;
    }
  }

  private checkView(view: View, access: "read" | "write", variables: ReadonlySet<string>): void {
    const param = this.kernel.params.find((candidate) => candidate.name === view.param);
    if (!param) throw new Problem(`there is no param ${view.param}`);
    if (param.access !== access) throw new Problem(`${view.param} is not for ${access}`);
    for (const index of [view.row, view.col]) {
      if (index.base !== null && !variables.has(index.base)) {
        throw new Problem(`${index.base} is not in scope`);
      }
    }
  }

  private checkWindow(window: Window, variables: ReadonlySet<string>): void {
    const { shape, name } = this.storage(window.storage);
    if (shape.length !== 2) throw new Problem(`${name} is no tile`);
    for (const [index, size, whole] of [
      [window.row, window.rows, shape[0]!],
      [window.col, window.cols, shape[1]!],
    ] as const) {
      if (index.base !== null && !variables.has(index.base)) {
        throw new Problem(`${index.base} is not in scope`);
      }
      if (index.offset + size > whole) throw new Problem(`the window leaves ${name}`);
    }
  }

  private checkExpr(expr: Expr, dst: Storage, variables: ReadonlySet<string>): void {
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
        break;
      }
      case "index":
      case "inside":
        if (expr.start.base !== null && !variables.has(expr.start.base)) {
          throw new Problem(`${expr.start.base} is not in scope`);
        }
        break;
      case "call":
        for (const arg of expr.args) this.checkExpr(arg, dst, variables);
        break;
      case "const":
      case "runtime":
        break;
    }
  }
}
