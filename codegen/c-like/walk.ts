/**
 * Tile statements as C-like text, for a block of 16 x 16 threads.
 *
 * A register tile [R, C] is spread cyclically: thread (ty, tx) holds the elements (ty + 16 i, tx + 16 j)
 * in its array [R/16][C/16]. Vectors and shared tiles are arrays in shared memory, scalars a register
 * of every thread. Products read their factors from shared memory; see tile/passes/stage-operands.ts.
 */
import { CompilerBug } from "../../compiler/support/never.ts";
import { lineComment } from "../../compiler/support/text.ts";
import type { SumDirection } from "../../compiler/tensor/ir.ts";
import type {
  Axis,
  Copy,
  CopyAsync,
  CumSumStmt,
  Expr,
  Index,
  Invert,
  Loop,
  Mma,
  ReduceStmt,
  RotateHalfStmt,
  SolveStmt,
  Stmt,
  StorageId,
  Store,
  Wait,
  Window,
} from "../../compiler/tile/ir.ts";
import { servesPacked, sumParts } from "../../compiler/tile/ir.ts";
import { PlaceWriter, side } from "./places.ts";
import { bare } from "./text.ts";

export class CLikeWalker extends PlaceWriter {
  /** The loop whose first copies are under way already. */
  private hasStarted: Loop | null = null;
  /** The condition that so many turns of the innermost loop are behind this one. */
  protected hasTurn: (behind: number) => string = () => "false";

  /** Statements, each group under the source line it came from; `above` is already said. */
  body(stmts: readonly Stmt[], above: string | null = null): void {
    let note = above;
    for (const stmt of stmts) {
      note = this.noted(stmt, note);
      this.statement(stmt);
    }
  }

  /** Says the source line of a statement, unless it was said last; what is said last now. */
  protected noted({ note }: Stmt, above: string | null): string | null {
    if (note !== null && note !== above) this.writer.line(lineComment("//", note));
    return note ?? above;
  }

  protected statement(stmt: Stmt): void {
    const { writer, dialect } = this;
    switch (stmt.kind) {
      case "copy-async": {
        const { ahead, isLast } = stmt;
        if (ahead === 0) this.copyAsync(stmt);
        else writer.block(`if (${this.hasTurn(ahead)}) {`, () => this.copyAsync(stmt));
        // A group is closed even where there is no such turn: waits count groups.
        if (isLast) this.closeCopies();
        return;
      }
      case "invert":
        return this.invert(stmt);
      case "load":
        return this.transfer(stmt.dst, (row, col, at) =>
          this.guardedRead(stmt.view, stmt.dst, row, col, at),
        );
      case "store": {
        const wanted = dialect.isWanted(this.param(stmt.view.param));
        if (wanted === null) return this.store(stmt);
        return void writer.block(`if (${wanted}) {`, () => this.store(stmt));
      }
      case "copy":
        return this.copy(stmt);
      case "map":
        return this.transfer(stmt.dst, (row, col, at) => {
          writer.line(`${at} = ${bare(this.expr(stmt.expr, row ?? "0", col ?? "0"))};`);
        });
      case "mma":
        return this.mma(stmt);
      case "reduce":
        return this.reduce(stmt);
      case "cumsum":
        return this.cumsum(stmt);
      case "solve":
        return this.solve(stmt);
      case "rotate-half":
        return this.rotateHalf(stmt);
      case "loop":
        return this.loop(stmt);
      case "wait":
        return this.wait(stmt);
      case "barrier":
        writer.line(dialect.barrier);
        return;
      case "mma-parts":
      case "fold":
      case "join":
      case "signal":
      case "await":
        throw new CompilerBug(`c-like: a target of ${stmt.kind} has tensor cores`);
    }
  }

  protected store(stmt: Store): void {
    const write = (row: string | null, col: string | null, at: string) =>
      this.guardedWrite(stmt.view, stmt.src, row, col, at);
    if (this.storage(stmt.src).shape.length > 0) return this.transfer(stmt.src, write);
    // A scalar is the same in every thread: one of them writes it.
    this.writer.block("if (thread == 0) {", () => write(null, null, this.nameOf(stmt.src)));
  }

  /** Ends a group of copies that are waited for together. */
  protected closeCopies(): void {}

  /** Without a way to copy while computing, copies are made on the spot ... */
  protected copyAsync(stmt: CopyAsync): void {
    this.transfer(stmt.dst, (row, col, at) => this.guardedRead(stmt.view, stmt.dst, row, col, at));
  }

  /** ... and waiting for them is waiting for the other threads. */
  protected wait(_stmt: Wait): void {
    this.writer.line(this.dialect.barrier);
  }

  protected invert({ dst }: Invert): void {
    throw new CompilerBug(`${this.nameOf(dst)} cannot be inverted on this target`);
  }

  /** All statements of a kernel or of a role; what the first loop copies first is asked for before anything is computed. */
  program(stmts: readonly Stmt[]): void {
    const first = stmts.find((stmt) => stmt.kind === "loop");
    if (first?.kind === "loop" && first.within === null) {
      this.openLoop(first, (head) => this.startCopies(first, head));
      this.hasStarted = first;
    }
    this.body(stmts);
  }

  protected loop(stmt: Loop): void {
    this.openLoop(stmt, (head) => {
      if (this.hasStarted !== stmt) this.startCopies(stmt, head);
      const { unroll } = this.dialect;
      if (stmt.extent !== "T" && unroll !== null) this.writer.line(unroll);
      const body = stmt.body.filter((one) => !isStart(one));
      this.writer.block(`${head.line} {`, () => this.turn({ ...stmt, body }));
    });
  }

  /** Runs `inner` where a loop's variable has a name. */
  private openLoop(stmt: Loop, inner: (head: LoopHead) => void): void {
    const { writer, dialect } = this;
    const name = this.unique(stmt.variable);
    this.variables.set(stmt.variable, name);
    const { within } = stmt;
    const whole = stmt.extent === "T" ? this.tokens : String(stmt.extent);
    let [first, extent] = ["0", whole];
    if (within !== null) {
      first = this.variables.get(within.base)!;
      extent = this.unique(`${name}_end`);
      writer.line(dialect.constant("int", extent, `min(${whole}, ${first} + ${within.length})`));
    }
    const step = String(stmt.step);
    // The last multiple of the step, which pieces are multiples of, below the end.
    const last = `(${extent} + ${stmt.step - 1}) / ${step} * ${step} - ${step}`;
    const copiesAhead = stmt.body.some(isStart);
    const line = stmt.reverse
      ? dialect.loopDown(name, last, step, first, copiesAhead)
      : dialect.loop(name, first, extent, step, copiesAhead);
    const outer = this.hasTurn;
    const least = (n: number) => (first === "0" ? "" : `${first} + `) + n * stmt.step;
    this.hasTurn = stmt.reverse
      ? (n) => `${name} >= ${least(n)}`
      : (n) => `${name} + ${n * stmt.step} < ${extent}`;
    inner({ line, name, start: stmt.reverse ? last : first, isAny: `${first} < ${extent}` });
    this.hasTurn = outer;
    this.taken.delete(name);
    if (within !== null) this.taken.delete(extent);
  }

  /** What the first turn copies, in front of the loop: its text is long, and run once. */
  private startCopies(stmt: Loop, { name, start, isAny }: LoopHead): void {
    const starts = stmt.body.filter(isStart);
    if (starts.length === 0) return;
    this.writer.block(`if (${isAny}) {`, () => {
      this.writer.line(this.dialect.constant("int", name, start));
      this.body(starts, stmt.note);
    });
  }

  /** What is between a loop's brackets. */
  protected turn({ body, note }: Loop): void {
    this.body(body, note);
  }

  /** Runs `body` for each element this thread has of a storage: its row and column, and its place. */
  protected transfer(
    id: StorageId,
    body: (row: string | null, col: string | null, at: string) => void,
  ): void {
    const { shape } = this.storage(id);
    const name = this.nameOf(id);
    const [rows, cols] = shape;
    if (rows === undefined) return body(null, null, name);
    if (cols === undefined) {
      this.eachShared(rows, "row", () => body("row", null, `${name}[row]`));
      return;
    }
    if (this.isRegister(id)) {
      this.eachRegister(rows, cols, () => body("row", "col", `${name}[i][j]`));
      return;
    }
    this.eachShared(rows * cols, "at", () => {
      this.withPlaces(`at / ${cols}`, `at % ${cols}`, () => {
        body("row", "col", this.sharedAt(id, "row", "col"));
      });
    });
  }

  protected expr(expr: Expr, row: string, col: string): string {
    const { dialect } = this;
    const own = (axis: Axis) => (axis === "row" ? row : col);
    switch (expr.kind) {
      case "const":
        return dialect.float(expr.value);
      case "read": {
        const name = this.nameOf(expr.storage);
        if (expr.at === "scalar") return name;
        if (expr.at !== "tile") return `${name}[${own(expr.at)}]`;
        if (this.isRegister(expr.storage)) return `${name}[i][j]`;
        return this.sharedAt(expr.storage, row, col);
      }
      case "index": {
        const place = this.plus(expr.start, own(expr.axis));
        return dialect.toFloat(
          expr.global ? `${place} + ${dialect.scalar("token_offset")}` : place,
        );
      }
      case "inside":
        return dialect.choose(this.condition(expr, row, col), dialect.float(1), dialect.float(0));
      case "runtime":
        if (expr.scalar === "T") return dialect.toFloat(this.tokens);
        // The length of the sequence: of a packed one, its own.
        return dialect.toFloat(
          servesPacked(this.kernel)
            ? dialect.choose(
                `${dialect.scalar("packed")} == 1`,
                "tokens",
                dialect.scalar(expr.scalar),
              )
            : dialect.scalar(expr.scalar),
        );
      case "call": {
        if (expr.fn === "select") {
          const [test, a, b] = expr.args as [Expr, Expr, Expr];
          return dialect.select(
            this.condition(test, row, col),
            this.expr(a, row, col),
            this.expr(b, row, col),
          );
        }
        if (expr.fn in comparisons) {
          return dialect.choose(this.condition(expr, row, col), dialect.float(1), dialect.float(0));
        }
        return dialect.call(
          expr.fn,
          expr.args.map((arg) => this.expr(arg, row, col)),
        );
      }
    }
  }

  /** An expression as a boolean: tests stay tests. */
  protected condition(expr: Expr, row: string, col: string): string {
    if (expr.kind === "inside") {
      const limit = expr.limit === "T" ? this.tokens : String(expr.limit);
      return `${this.plus(expr.start, expr.axis === "row" ? row : col)} < ${limit}`;
    }
    if (expr.kind === "call" && expr.fn in comparisons) {
      const [a, b] = expr.args as [Expr, Expr];
      const word = comparisons[expr.fn as keyof typeof comparisons];
      // Row and column numbers compare as integers.
      const [m, n] = [a, b].map((arg) => countText(arg, row, col));
      if (m && n) return `${m.text} ${word} ${n.text}`;
      return `${this.expr(a, row, col)} ${word} ${this.expr(b, row, col)}`;
    }
    if (expr.kind === "call" && expr.fn === "mul") {
      // Flags multiply: both must hold.
      const isFlag = (arg: Expr): boolean =>
        arg.kind === "inside" ||
        (arg.kind === "call" &&
          (arg.fn in comparisons || (arg.fn === "mul" && arg.args.every(isFlag))));
      if (expr.args.every(isFlag))
        return expr.args.map((arg) => this.condition(arg, row, col)).join(" && ");
    }
    const count = countText(expr, row, col);
    if (count) return `${count.text} != 0`;
    return `${this.expr(expr, row, col)} != ${this.dialect.float(0)}`;
  }

  protected copy(stmt: Copy): void {
    const { dst, src, transpose } = stmt;
    const { writer } = this;
    const sourceIsRegister = this.isRegister(src.storage);
    const targetIsRegister = this.isRegister(dst.storage);
    // The register side is walked in its own layout; the other side follows.
    const held = sourceIsRegister ? src : dst;
    if (sourceIsRegister || targetIsRegister) {
      this.eachRegister(held.rows, held.cols, () => {
        const register = this.registerAt(held);
        const other = sourceIsRegister ? dst : src;
        const [row, col] = transpose ? ["col", "row"] : ["row", "col"];
        const shared = this.windowAt(other, row!, col!);
        writer.line(sourceIsRegister ? `${shared} = ${register};` : `${register} = ${shared};`);
      });
      return;
    }
    this.eachShared(dst.rows * dst.cols, "at", () => {
      writer.line(this.dialect.constant("int", "row", `at / ${dst.cols}`));
      writer.line(this.dialect.constant("int", "col", `at % ${dst.cols}`));
      const from = transpose ? this.windowAt(src, "col", "row") : this.windowAt(src, "row", "col");
      writer.line(`${this.windowAt(dst, "row", "col")} = ${from};`);
    });
  }

  /** Element (i, j) of a window of a register tile; windows start at multiples of the block's side. */
  protected registerAt(window: Window): string {
    const at = (start: Index, counter: string) => {
      const { base, offset } = start;
      const parts = [
        ...(base === null ? [] : [`${this.variables.get(base)} / ${side}`]),
        ...(offset === 0 ? [] : [String(offset / side)]),
        counter,
      ];
      return parts.join(" + ");
    };
    return `${this.nameOf(window.storage)}[${at(window.row, "i")}][${at(window.col, "j")}]`;
  }

  protected windowAt(window: Window, row: string, col: string): string {
    return this.sharedAt(window.storage, this.plus(window.row, row), this.plus(window.col, col));
  }

  /** dst += lhs rhs with both factors in shared memory, row k of each slab read by all threads. */
  protected mma(stmt: Mma): void {
    const { writer, dialect } = this;
    const { dst, lhs, rhs } = stmt;
    const depth = stmt.transposeLhs ? lhs.rows : lhs.cols;
    const [rows, cols] = [dst.rows / side, dst.cols / side];
    const left = stmt.transposeLhs
      ? this.windowAt(lhs, "inner", `ty + ${side} * i`)
      : this.windowAt(lhs, `ty + ${side} * i`, "inner");
    const right = stmt.transposeRhs
      ? this.windowAt(rhs, `tx + ${side} * j`, "inner")
      : this.windowAt(rhs, "inner", `tx + ${side} * j`);
    writer.block(`${dialect.loop("inner", "0", String(depth), "1")} {`, () => {
      writer.line(dialect.registers("factors", 1, cols));
      this.fixedLoop("j", cols, () => writer.line(`factors[0][j] = ${right};`));
      this.fixedLoop("i", rows, () => {
        const multiply = () => {
          writer.line(dialect.constant("float", "factor", left));
          this.fixedLoop("j", cols, () => {
            writer.line(`${this.registerAt(dst)} += factor * factors[0][j];`);
          });
        };
        const condition = this.isTerm(stmt);
        if (condition === null) multiply();
        else writer.block(`if (${condition}) {`, multiply);
      });
    });
  }

  /** Whether a product has a term `inner` of row i; null: all of them. */
  private isTerm({ dst, triangle }: Mma): string | null {
    if (!triangle) return null;
    const compare = `${triangle.upper ? ">" : "<"}${triangle.strict ? "" : "="}`;
    const row = this.plus(dst.row, `ty + ${side} * i`);
    return `${this.plus(triangle.from, "inner")} ${compare} ${row}`;
  }

  /** Sums in one column of a shared tile, of every block that starts at `first`, `first` + `step`, ... */
  private sumColumn(
    { dst, src, block }: CumSumStmt,
    { reverse, exclusive }: SumDirection,
    first: number,
    step: number,
  ): void {
    const { writer, dialect } = this;
    const [size] = this.storage(src).shape as [number];
    const sumBlock = (start: string, end: string, last: string) => {
      writer.line(dialect.variable("float", "value", dialect.float(0)));
      const head = reverse
        ? dialect.loopDown("row", last, "1", start)
        : dialect.loop("row", start, end, "1");
      writer.block(`${head} {`, () => {
        const own = this.sharedAt(src, "row", "col");
        const sum = this.sharedAt(dst, "row", "col");
        if (exclusive) {
          // dst may be src: its own element is taken before the sum takes its place.
          writer.line(dialect.constant("float", "own", own));
          writer.line(`${sum} = value;`);
          writer.line("value += own;");
        } else {
          writer.line(`value += ${own};`);
          writer.line(`${sum} = value;`);
        }
      });
    };
    if (block === null || block >= size) return sumBlock("0", String(size), String(size - 1));
    writer.block(`${dialect.loop("start", String(first), String(size), String(step))} {`, () => {
      sumBlock("start", `start + ${block}`, `start + ${block - 1}`);
    });
  }

  protected reduce(stmt: ReduceStmt): void {
    const { writer, dialect } = this;
    const { shape } = this.storage(stmt.src);
    const [src, dst] = [this.nameOf(stmt.src), this.nameOf(stmt.dst)];
    const start = dialect.float(stmt.fn === "sum" ? 0 : -Infinity);
    const fold = (a: string, b: string) => dialect.call(stmt.fn === "sum" ? "add" : "max", [a, b]);
    if (shape.length === 1) {
      writer.line(`${dst} = ${start};`);
      writer.block(`${dialect.loop("inner", "0", String(shape[0]), "1")} {`, () => {
        writer.line(`${dst} = ${fold(dst, `${src}[inner]`)};`);
      });
      return;
    }
    const [rows, cols] = shape as [number, number];
    const alongCols = stmt.axis === "col";
    const [kept, folded] = alongCols ? [rows, cols] : [cols, rows];
    const [own, lane] = alongCols ? ["ty", "tx"] : ["tx", "ty"];
    const [outer, inner] = alongCols ? ["i", "j"] : ["j", "i"];
    const scratch = this.storage(stmt.scratch!);
    const stride = scratch.shape[1]! + scratch.pad;
    // Each thread folds what it holds, then one thread a row folds the 16 partial results; as many
    // rows at a time as the scratch has.
    for (let first = 0; first < kept; first += scratch.shape[0]!) {
      const count = Math.min(scratch.shape[0]!, kept - first);
      const from = (counter: string) => (first === 0 ? counter : `${counter} + ${first / side}`);
      const held = alongCols ? `${src}[${from("i")}][j]` : `${src}[i][${from("j")}]`;
      this.fixedLoop(outer, count / side, () => {
        writer.line(dialect.variable("float", "value", start));
        this.fixedLoop(inner, folded / side, () => writer.line(`value = ${fold("value", held)};`));
        writer.line(
          `${this.nameOf(scratch.id)}[(${own} + ${side} * ${outer}) * ${stride} + ${lane}] = value;`,
        );
      });
      writer.line(dialect.barrier);
      this.eachShared(count, "row", () => {
        writer.line(dialect.variable("float", "value", start));
        this.fixedLoop("inner", side, () => {
          writer.line(
            `value = ${fold("value", `${this.nameOf(scratch.id)}[row * ${stride} + inner]`)};`,
          );
        });
        writer.line(`${dst}[${first === 0 ? "row" : `row + ${first}`}] = value;`);
      });
      writer.line(dialect.barrier);
    }
  }

  /**
   * Of a vector every thread sums up its own prefix: a chunk is short, and nobody waits for a
   * neighbour. Of a shared tile every thread walks down its own columns.
   */
  protected cumsum(stmt: CumSumStmt): void {
    const { dst, src, reverse, exclusive, block } = stmt;
    const { writer, dialect } = this;
    const [size, cols] = this.storage(src).shape as [number, number?];
    if (cols !== undefined) {
      this.eachShared(cols, "col", () => {
        const { earlier } = stmt;
        const step = block ?? size;
        if (!earlier) return this.sumColumn(stmt, stmt, 0, step);
        this.sumColumn(stmt, earlier, 0, 2 * step);
        this.sumColumn(stmt, stmt, step, 2 * step);
      });
      return;
    }
    this.eachShared(size, "row", () => {
      writer.line(dialect.variable("float", "value", dialect.float(0)));
      const first = block === null ? "0" : `row / ${block} * ${block}`;
      const last = block === null ? String(size) : `${first} + ${block}`;
      const [from, to] = reverse
        ? [exclusive ? "row + 1" : "row", last]
        : [first, exclusive ? "row" : "row + 1"];
      writer.block(`${dialect.loop("inner", from!, to!, "1")} {`, () => {
        writer.line(`value += ${this.term(stmt, `${this.nameOf(src)}[inner]`)};`);
      });
      writer.line(`${this.nameOf(dst)}[row] = value;`);
    });
  }

  /** What an element adds to a sum; a part of it is computed in lines of its own. */
  protected term({ part }: CumSumStmt, own: string): string {
    if (!part) return own;
    const { writer, dialect } = this;
    const { quantum, deepest } = sumParts;
    const floor = dialect.float(deepest);
    writer.line(dialect.constant("float", "own", own));
    writer.line(dialect.constant("float", "each", dialect.choose(`own < ${floor}`, floor, "own")));
    const steps = `each * ${dialect.float(1 / quantum)} + ${dialect.float(0.5)}`;
    const coarse = `${dialect.call("floor", [steps])} * ${dialect.float(quantum)}`;
    return part === "coarse" ? coarse : `each - ${coarse}`;
  }

  /** Every thread solves columns of its own, row after row. */
  protected solve({ dst, matrix, upper }: SolveStmt): void {
    const { writer, dialect } = this;
    const [rows, cols] = this.storage(dst).shape as [number, number];
    this.eachShared(cols, "col", () => {
      const head = upper
        ? dialect.loopDown("row", String(rows - 2), "1", "0")
        : dialect.loop("row", "1", String(rows), "1");
      writer.block(`${head} {`, () => {
        writer.line(dialect.variable("float", "value", this.sharedAt(dst, "row", "col")));
        const [from, to] = upper ? ["row + 1", String(rows)] : ["0", "row"];
        writer.block(`${dialect.loop("inner", from!, to!, "1")} {`, () => {
          const [factor, other] = [
            this.sharedAt(matrix, "row", "inner"),
            this.sharedAt(dst, "inner", "col"),
          ];
          writer.line(`value += ${factor} * ${other};`);
        });
        writer.line(`${this.sharedAt(dst, "row", "col")} = value;`);
      });
    });
  }

  protected rotateHalf(stmt: RotateHalfStmt): void {
    const { writer, dialect } = this;
    const [rows, cols] = this.storage(stmt.dst).shape as [number, number];
    const [dst, src] = [this.nameOf(stmt.dst), this.nameOf(stmt.src)];
    const half = stmt.width / 2;
    if (this.isRegister(stmt.src)) {
      // Half a row further is the same thread's: the halves are multiples of the block's side.
      this.fixedLoop("i", rows / side, () => {
        this.fixedLoop("j", half / side, () => {
          writer.line(`${dst}[i][j] = -${src}[i][j + ${half / side}];`);
          writer.line(`${dst}[i][j + ${half / side}] = ${src}[i][j];`);
        });
      });
      return;
    }
    this.eachRegister(rows, cols, () => {
      const low = `-${this.sharedAt(stmt.src, "row", `col + ${half}`)}`;
      const high = this.sharedAt(stmt.src, "row", `col - ${half}`);
      writer.line(dialect.variable("float", "value", dialect.float(0)));
      writer.block(`if (col < ${half}) {`, () => writer.line(`value = ${low};`));
      writer.block(`else if (col < ${stmt.width}) {`, () => writer.line(`value = ${high};`));
      writer.line(`${dst}[i][j] = value;`);
    });
  }
}

/** A loop as text: its line, its variable, where that starts, and the condition that there is any turn. */
interface LoopHead {
  readonly line: string;
  readonly name: string;
  readonly start: string;
  readonly isAny: string;
}

function isStart(stmt: Stmt): boolean {
  return stmt.kind === "copy-async" && stmt.turns === "first";
}

const comparisons = { lt: "<", le: "<=", gt: ">", ge: ">=", eq: "==" } as const;

/** Of the numbers of a row and a column, and of the blocks they lie in, the integer; null: the expression is none. */
function countText(
  expr: Expr,
  row: string,
  col: string,
): { readonly text: string; readonly isSum: boolean } | null {
  const bracketed = (count: { text: string; isSum: boolean }) =>
    count.isSum ? `(${count.text})` : count.text;
  switch (expr.kind) {
    case "const":
      return Number.isInteger(expr.value) && expr.value >= 0
        ? { text: String(expr.value), isSum: false }
        : null;
    case "index": {
      const isWhole = expr.start.base === null && expr.start.offset === 0 && !expr.global;
      const text = expr.axis === "row" ? row : col;
      return isWhole ? { text, isSum: !/^\w+$/.test(text) } : null;
    }
    case "call": {
      const [a, b] = expr.args;
      if (expr.fn === "floor") {
        const whole = countText(a!, row, col);
        if (whole || a!.kind !== "call" || a.fn !== "mul") return whole;
        const [number, scale] = a.args as [Expr, Expr];
        const count = countText(number, row, col);
        const size = scale.kind === "const" ? 1 / scale.value : NaN;
        if (!count || !Number.isInteger(size)) return null;
        return { text: `${bracketed(count)} / ${size}`, isSum: false };
      }
      if (expr.fn !== "add" && expr.fn !== "sub" && expr.fn !== "mul") return null;
      const [m, n] = [countText(a!, row, col), countText(b!, row, col)];
      if (!m || !n) return null;
      if (expr.fn === "add") return { text: `${m.text} + ${n.text}`, isSum: true };
      if (expr.fn === "sub") return { text: `${m.text} - ${bracketed(n)}`, isSum: true };
      return { text: `${bracketed(m)} * ${bracketed(n)}`, isSum: false };
    }
    default:
      return null;
  }
}
