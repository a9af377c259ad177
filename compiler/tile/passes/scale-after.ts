/**
 * Scale-after: rows of a factor are scaled in the product, where they are the product's rows or, turned, its columns.
 *
 *   load k = k[t, 0]                       load k = k[t, 0]
 *   map decayed = mul(k, decay@row)        map d_v = 0
 *   map d_v = 0                       =>   mma d_v += k @ d_S
 *   mma d_v += decayed @ d_S               map d_v = mul(d_v, decay@row)
 *
 * What was loaded in 16 bits then is the factor itself, without a way through registers, a rounding and a second
 * tile in shared memory. Products that were summed up before it wait until the sum is scaled.
 *
 * Guarantees: the same values, but for roundings. Source: (D A) (E B)^T = D (A B^T) E, D and E diagonal.
 */
import type { Pass } from "../../support/pass.ts";
import { readsOf, writesOf } from "../accesses.ts";
import type { Expr, Kernel, MapStmt, Mma, Stmt, StorageId, TileProgram, Window } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

export const scaleAfter: Pass<TileProgram> = {
  name: "scale-after",
  summary: "scale products instead of their factors",
  run: onKernels((kernel) => {
    if (solves(kernel.body)) return kernel;
    const body = new Scaler(kernel).body(kernel.body);
    return body === null ? kernel : { ...kernel, body: withoutUnread(kernel, body) };
  }),
};

/** Triangular solves leave no registers for sums that wait to be scaled: measured, they spill. */
function solves(body: readonly Stmt[]): boolean {
  return body.some((stmt) => stmt.kind === "solve" || (stmt.kind === "loop" && solves(stmt.body)));
}

/** A tile as another one times numbers that depend on the row alone. */
interface Scaled {
  readonly tile: StorageId;
  readonly factor: Expr;
  /** How often what it depends on had been written when it was computed. */
  readonly versions: ReadonlyMap<StorageId, number>;
}

class Scaler {
  private readonly kernel: Kernel;
  private versions = new Map<StorageId, number>();
  /** Tiles as buffers have them, in 16 bits. */
  private loaded = new Set<StorageId>();
  private scaled = new Map<StorageId, Scaled>();
  /** Sums that were begun at zero: the products added since, with the versions of their factors. */
  private begun = new Map<StorageId, { stmt: Mma; versions: ReadonlyMap<StorageId, number> }[]>();
  private changes = 0;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /** The statements with products scaled; null where there is nothing to do. */
  body(stmts: readonly Stmt[]): Stmt[] | null {
    const body = this.list(stmts);
    return this.changes === 0 ? null : body;
  }

  private list(stmts: readonly Stmt[]): Stmt[] {
    let out: Stmt[] = [];
    for (const stmt of stmts) {
      if (stmt.kind === "loop") {
        this.forgetAll();
        out.push({ ...stmt, body: this.list(stmt.body) });
        this.forgetAll();
        continue;
      }
      const earlier = stmt.kind === "mma" ? this.begun.get(stmt.dst.storage) : undefined;
      const found = stmt.kind === "mma" && earlier ? this.unscaled(stmt) : null;
      if (stmt.kind === "mma" && earlier && found && earlier.every((one) => this.isFresh(one))) {
        const { storage } = stmt.dst;
        const first = new Set<Stmt>(earlier.map((one) => one.stmt));
        out = out.filter((one) => !first.has(one));
        const sum: Expr = { kind: "read", storage, at: "tile" };
        const expr = times(sum, found.factor);
        out.push(found.product, { kind: "map", dst: storage, expr, note: stmt.note }, ...first);
        this.begun.delete(storage);
        this.changes++;
      } else {
        out.push(stmt);
      }
      this.follow(stmt);
    }
    return out;
  }

  private forgetAll(): void {
    this.loaded = new Set();
    this.scaled = new Map();
    this.begun = new Map();
  }

  /** What a statement leaves known. */
  private follow(stmt: Stmt): void {
    for (const id of readsOf(stmt)) this.begun.delete(id);
    if (stmt.kind === "mma") {
      const versions = this.versionsOf(readsOf(stmt));
      this.begun.get(stmt.dst.storage)?.push({ stmt, versions });
    }
    for (const id of writesOf(stmt)) {
      this.versions.set(id, this.version(id) + 1);
      this.loaded.delete(id);
      this.scaled.delete(id);
      if (stmt.kind !== "mma") this.begun.delete(id);
    }
    if (stmt.kind === "load" && this.isNarrow(stmt.view.param)) this.loaded.add(stmt.dst);
    if (stmt.kind !== "map" || this.kernel.storages[stmt.dst]!.shape.length !== 2) return;
    if (stmt.expr.kind === "const" && stmt.expr.value === 0) this.begun.set(stmt.dst, []);
    const scaled = this.scaledBy(stmt);
    if (scaled) this.scaled.set(stmt.dst, scaled);
  }

  private isNarrow(name: string): boolean {
    const param = this.kernel.params.find((one) => one.name === name)!;
    return param.dtype !== "f32" && param.per === "token";
  }

  /** map dst = mul(x, factor), where the factor may be of several. */
  private scaledBy({ dst, expr }: MapStmt): Scaled | null {
    const parts = factorsIn(expr);
    const others = parts.filter(isOfRow);
    const [whole, ...more] = parts.filter((part) => !isOfRow(part));
    if (whole?.kind !== "read" || whole.at !== "tile" || more.length + others.length === 0)
      return null;
    if (whole.storage === dst || more.length > 0) return null;
    const inner = this.scaled.get(whole.storage);
    const known = inner && this.isFresh(inner) ? inner : null;
    const tile = known ? known.tile : whole.storage;
    const factor = (known ? [known.factor, ...others] : others).reduce(times);
    return { tile, factor, versions: this.versionsOf([tile, ...readsIn(factor)]) };
  }

  /** The product of what was loaded, and what its rows, columns or both are to be multiplied by. */
  private unscaled(stmt: Mma): { readonly product: Mma; readonly factor: Expr } | null {
    const whole = (window: Window) => {
      const [rows, cols] = this.kernel.storages[window.storage]!.shape;
      return window.rows === rows && window.cols === cols;
    };
    if (![stmt.dst, stmt.lhs, stmt.rhs].every(whole)) return null;
    let product = stmt;
    const factors: Expr[] = [];
    for (const side of ["lhs", "rhs"] as const) {
      // Scaled rows must be rows of the product, or its columns.
      if (side === "lhs" ? stmt.transposeLhs : !stmt.transposeRhs) continue;
      const scaled = this.scaled.get(stmt[side].storage);
      if (!scaled || !this.isFresh(scaled) || !this.loaded.has(scaled.tile)) continue;
      product = { ...product, [side]: { ...stmt[side], storage: scaled.tile } };
      factors.push(side === "lhs" ? scaled.factor : turned(scaled.factor));
    }
    return factors.length === 0 ? null : { product, factor: factors.reduce(times) };
  }

  private version(id: StorageId): number {
    return this.versions.get(id) ?? 0;
  }

  private versionsOf(ids: readonly StorageId[]): ReadonlyMap<StorageId, number> {
    return new Map(ids.map((id) => [id, this.version(id)]));
  }

  private isFresh({ versions }: { readonly versions: ReadonlyMap<StorageId, number> }): boolean {
    return [...versions].every(([id, version]) => this.version(id) === version);
  }
}

function times(a: Expr, b: Expr): Expr {
  return { kind: "call", fn: "mul", args: [a, b] };
}

function factorsIn(expr: Expr): readonly Expr[] {
  return expr.kind === "call" && expr.fn === "mul" ? expr.args.flatMap(factorsIn) : [expr];
}

function isOfRow(expr: Expr): boolean {
  if (expr.kind === "const") return true;
  if (expr.kind === "read") return expr.at === "row" || expr.at === "scalar";
  return expr.kind === "call" && expr.fn === "mul" && expr.args.every(isOfRow);
}

function turned(expr: Expr): Expr {
  if (expr.kind === "read" && expr.at === "row") return { ...expr, at: "col" };
  return expr.kind === "call" ? { ...expr, args: expr.args.map(turned) } : expr;
}

function readsIn(expr: Expr): readonly StorageId[] {
  if (expr.kind === "read") return [expr.storage];
  return expr.kind === "call" ? expr.args.flatMap(readsIn) : [];
}

/** Without maps to register tiles that nothing reads. */
function withoutUnread(kernel: Kernel, body: readonly Stmt[]): readonly Stmt[] {
  const read = new Set<StorageId>();
  const look = (stmt: Stmt): void => {
    if (stmt.kind === "loop") return stmt.body.forEach(look);
    for (const id of readsOf(stmt)) if (!writesOf(stmt).includes(id)) read.add(id);
    if (stmt.kind === "mma") read.add(stmt.dst.storage);
  };
  body.forEach(look);
  const isUnread = (stmt: Stmt) =>
    stmt.kind === "map" &&
    kernel.storages[stmt.dst]!.shape.length === 2 &&
    kernel.storages[stmt.dst]!.memory === "register" &&
    !read.has(stmt.dst);
  const without = (stmts: readonly Stmt[]): Stmt[] =>
    stmts.flatMap((stmt): Stmt[] => {
      if (stmt.kind === "loop") return [{ ...stmt, body: without(stmt.body) }];
      return isUnread(stmt) ? [] : [stmt];
    });
  const kept = without(body);
  const count = (stmts: readonly Stmt[]): number =>
    stmts.reduce((sum, stmt) => sum + 1 + (stmt.kind === "loop" ? count(stmt.body) : 0), 0);
  return count(kept) === count(body) ? body : withoutUnread(kernel, kept);
}
