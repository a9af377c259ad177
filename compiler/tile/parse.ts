/** Tile programs from text, as `print.ts` writes them. Throws IrSyntaxError on anything else. */
import { IrReader } from "../support/ir-text.ts";
import { type Dtype, type MapFn, type Per, binaryFns, unaryFns } from "../tensor/ir.ts";
import type {
  Axis,
  Expr,
  GridAxis,
  Index,
  Kernel,
  Param,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  View,
  Window,
  TriangleTerms,
} from "./ir.ts";

const dtypes: readonly Dtype[] = ["f32", "f16", "bf16"];
const pers: readonly Per[] = ["token", "head", "shared", "state"];
const axes: readonly Axis[] = ["row", "col"];
const mapFns: readonly MapFn[] = [...unaryFns, ...binaryFns, "select"];

export function parseTile(text: string): TileProgram {
  return new TileParser(new IrReader(text)).program();
}

class TileParser {
  private storages: Storage[] = [];
  private readonly reader: IrReader;

  constructor(reader: IrReader) {
    this.reader = reader;
  }

  program(): TileProgram {
    const { reader } = this;
    reader.expect("tile");
    const name = reader.next();
    reader.expect("{");
    const kernels: Kernel[] = [];
    while (!reader.accept("}")) kernels.push(this.kernel());
    reader.end();
    return { name, kernels };
  }

  private kernel(): Kernel {
    const { reader } = this;
    this.storages = [];
    const params: Param[] = [];
    const grid: GridAxis[] = [];
    reader.expect("kernel");
    const name = reader.next();
    reader.expect("threads");
    const threads = reader.number();
    const roles = reader.accept("roles") ? { roles: this.numbers() } : {};
    reader.expect("{");
    for (;;) {
      if (reader.accept("param")) params.push(this.param());
      else if (reader.accept("grid")) grid.push(this.gridAxis());
      else if (reader.peek() === "register" || reader.peek() === "shared") this.storage();
      else break;
    }
    const body = this.body();
    return { name, params, grid, threads, ...roles, storages: this.storages, body };
  }

  private numbers(): number[] {
    const found: number[] = [];
    while (this.reader.peek() !== "{") found.push(this.reader.number());
    return found;
  }

  private extent(): number | "T" {
    return this.reader.accept("T") ? "T" : this.reader.number();
  }

  private param(): Param {
    const { reader } = this;
    const access = reader.oneOf(["read", "write"]);
    const per = reader.oneOf([...pers, "chunk"] as const);
    const chunk = reader.accept("of") ? { chunk: reader.number() } : {};
    const name = reader.next();
    reader.expect(":");
    const dtype = reader.oneOf([...dtypes, "i32"] as const);
    const shape = reader.list("[", "]", () => this.extent());
    reader.expect("heads");
    const heads = reader.next();
    const shares = reader.accept("shares") ? { shares: reader.number() } : {};
    return { name, access, per, ...chunk, dtype, shape, heads, ...shares };
  }

  private gridAxis(): GridAxis {
    const { reader } = this;
    const name = reader.next();
    reader.expect("below");
    const extent = this.extent();
    reader.expect("step");
    return { name, extent, step: reader.number() };
  }

  private storage(): void {
    const { reader } = this;
    const memory = reader.oneOf(["register", "shared"]);
    const name = reader.next();
    reader.expect(":");
    const dtype = reader.oneOf(dtypes);
    const shape = reader.list("[", "]", () => reader.number());
    const pad = reader.accept("pad") ? reader.number() : 0;
    const places = reader.accept("places") ? { places: reader.number() } : {};
    const id = this.storages.length as StorageId;
    this.storages.push({ id, name, memory, dtype, shape, pad, ...places });
  }

  private named(): StorageId {
    const name = this.reader.next();
    const found = this.storages.find((storage) => storage.name === name);
    return found ? found.id : this.reader.fail(`there is no storage ${name}`);
  }

  /** Statements up to the closing bracket; a note holds until the next one. */
  private body(): Stmt[] {
    const stmts: Stmt[] = [];
    let note: string | null = null;
    while (!this.reader.accept("}")) {
      const role = this.reader.accept("@") ? { role: this.reader.number() } : {};
      const kind = this.reader.next();
      const comment = this.reader.comment();
      if (comment !== null) note = comment === "" ? null : comment;
      stmts.push({ ...this.statement(kind, note), ...role });
    }
    return stmts;
  }

  private statement(kind: string, note: string | null): Stmt {
    const { reader } = this;
    switch (kind) {
      case "load": {
        const dst = this.named();
        reader.expect("=");
        return { kind, dst, view: this.view(), note };
      }
      case "copy-async": {
        const turns = reader.accept("first") ? "first" : "all";
        const ahead = reader.accept("ahead") ? reader.number() : 0;
        const last = reader.accept("last") ? { isLast: true as const } : {};
        const dst = this.named();
        reader.expect("=");
        return { kind, turns, ahead, dst, view: this.view(), ...last, note };
      }
      case "invert":
        return { kind, dst: this.named(), note };
      case "store": {
        const view = this.view();
        reader.expect("=");
        return { kind, src: this.named(), view, note };
      }
      case "wait":
        return { kind, pending: reader.number(), note };
      case "barrier":
        return { kind, note };
      case "signal":
      case "await":
        return { kind, number: reader.number(), note };
      case "copy": {
        const rest = reader.accept("rest") ? { rest: true as const } : {};
        const dst = this.window();
        reader.expect("=");
        return { kind, ...rest, dst, src: this.window(), transpose: this.turned(), note };
      }
      case "map": {
        const dst = this.named();
        reader.expect("=");
        return { kind, dst, expr: this.expr(), note };
      }
      case "mma": {
        const dst = this.window();
        reader.expect("+");
        reader.expect("=");
        const lhs = this.window();
        const transposeLhs = this.turned();
        reader.expect("@");
        return {
          kind,
          dst,
          lhs,
          transposeLhs,
          rhs: this.window(),
          transposeRhs: this.turned(),
          ...this.terms(),
          note,
        };
      }
      case "mma-parts": {
        const dst = this.named();
        reader.expect("=");
        const lhs = this.named();
        reader.expect("@");
        const rhs = this.named();
        if (!this.turned()) reader.fail("a product in parts turns its right factor");
        return { kind, dst, lhs, rhs, note };
      }
      case "fold": {
        const dst = this.named();
        reader.expect("=");
        const fn = reader.oneOf(["sum", "max"]);
        const axis = reader.oneOf(axes);
        return { kind, fn, dst, axis, src: this.named(), note };
      }
      case "join": {
        const dst = this.named();
        reader.expect("=");
        return { kind, fn: reader.oneOf(["sum", "max"]), dst, src: this.named(), note };
      }
      case "reduce": {
        const dst = this.named();
        reader.expect("=");
        const fn = reader.oneOf(["sum", "max"]);
        const axis = reader.oneOf(axes);
        const src = this.named();
        return {
          kind,
          fn,
          dst,
          src,
          axis,
          scratch: reader.accept("scratch") ? this.named() : null,
          note,
        };
      }
      case "cumsum": {
        const dst = this.named();
        reader.expect("=");
        const src = this.named();
        const part = (["coarse", "fine"] as const).find((word) => reader.accept(word));
        const reverse = reader.accept("reverse");
        const exclusive = reader.accept("exclusive");
        const block = reader.accept("block") ? reader.number() : null;
        const earlier = reader.accept("earlier")
          ? {
              reverse: reader.oneOf(["forward", "reverse"]) === "reverse",
              exclusive: reader.oneOf(["inclusive", "exclusive"]) === "exclusive",
            }
          : null;
        const sum = { kind, dst, src, reverse, exclusive, block, note } as const;
        return { ...sum, ...(part && { part }), ...(earlier && { earlier }) };
      }
      case "solve": {
        const dst = this.named();
        const upper = reader.oneOf(["upper", "lower"]) === "upper";
        return { kind, dst, upper, matrix: this.named(), transpose: this.turned(), note };
      }
      case "rotate-half": {
        const dst = this.named();
        reader.expect("=");
        const src = this.named();
        reader.expect("width");
        return { kind, dst, src, width: reader.number(), note };
      }
      case "loop": {
        const { name: variable, extent, step } = this.gridAxis();
        const within = reader.accept("within") ? this.piece() : null;
        const reverse = reader.accept("reverse");
        reader.expect("{");
        return { kind, variable, extent, step, within, reverse, body: this.body(), note };
      }
      default:
        return reader.fail(`there is no statement \`${kind}\``);
    }
  }

  private piece(): { readonly base: string; readonly length: number } {
    const base = this.reader.next();
    this.reader.expect(":");
    return { base, length: this.reader.number() };
  }

  private turned(): boolean {
    if (!this.reader.accept("^")) return false;
    this.reader.expect("T");
    return true;
  }

  private terms(): { readonly triangle?: TriangleTerms } {
    const { reader } = this;
    const strict = reader.accept("strictly");
    const side = (["upper", "lower"] as const).find((word) => reader.accept(word));
    if (!side) return strict ? reader.fail("a triangle is upper or lower") : {};
    reader.expect("from");
    return { triangle: { upper: side === "upper", strict, from: this.index() } };
  }

  private index(): Index {
    const { reader } = this;
    const word = reader.peek() ?? "";
    if (/^-?\d/.test(word)) return { base: null, offset: reader.number() };
    const base = reader.next();
    if (reader.accept("-")) return { base, offset: -reader.number() };
    return { base, offset: reader.accept("+") ? reader.number() : 0 };
  }

  private view(): View {
    const { reader } = this;
    const param = reader.next();
    let token: Index | undefined;
    const [row, col] = reader.list("[", "]", () => {
      const first = this.index();
      if (!reader.accept(":")) return first;
      token = first;
      return this.index();
    });
    if (!row || !col) return reader.fail("a view has a row and a column");
    return { param, ...(token === undefined ? {} : { token }), row, col };
  }

  private window(): Window {
    const { reader } = this;
    const storage = this.named();
    const range = () => {
      const start = this.index();
      reader.expect(":");
      return { start, size: reader.number() };
    };
    const [row, col] = reader.list("[", "]", range);
    if (!row || !col) return reader.fail("a window has rows and columns");
    return { storage, row: row.start, rows: row.size, col: col.start, cols: col.size };
  }

  private expr(): Expr {
    const { reader } = this;
    const word = reader.peek() ?? "";
    if (/^-?(\d|inf$|nan$)/.test(word)) return { kind: "const", value: reader.number() };
    if (reader.accept("$")) {
      return { kind: "runtime", scalar: reader.oneOf(["T", "T_total"]) };
    }
    const stored = this.storages.find((storage) => storage.name === word);
    reader.next();
    if (reader.peek() !== "(") {
      if (!stored) return reader.fail(`there is no storage ${word}`);
      const at = reader.accept("@") ? reader.oneOf(axes) : null;
      const own = stored.shape.length === 2 ? "tile" : "scalar";
      return { kind: "read", storage: stored.id, at: at ?? own };
    }
    if (word === "at" || word === "token" || word === "inside") return this.place(word);
    const fn = mapFns.find((candidate) => candidate === word);
    if (!fn) return reader.fail(`there is no function ${word}`);
    return { kind: "call", fn, args: reader.list("(", ")", () => this.expr()) };
  }

  private place(word: "at" | "token" | "inside"): Expr {
    const { reader } = this;
    reader.expect("(");
    const axis = reader.oneOf(axes);
    reader.expect(",");
    const start = this.index();
    if (word === "inside") {
      reader.expect(",");
      const limit = this.extent();
      reader.expect(")");
      return { kind: "inside", axis, start, limit };
    }
    reader.expect(")");
    return { kind: "index", axis, start, global: word === "token" };
  }
}
