/**
 * Where things of a kernel lie, as C-like text: what storages and variables are called, which part of a grid is a point's own,
 * and which elements of buffers are.
 */
import { readsOf, writesOf } from "../../compiler/tile/accesses.ts";
import { TextWriter } from "../../compiler/support/text.ts";
import type {
  GridAxis,
  Index,
  Kernel,
  Param,
  Stmt,
  Storage,
  StorageId,
  View,
} from "../../compiler/tile/ir.ts";
import { columnAxis, cutsParam, servesPacked } from "../../compiler/tile/ir.ts";
import type { Dialect } from "./dialect.ts";
import { bare, group } from "./text.ts";

/** Threads along each side of the block. */
export const side = 16;
const threads = side * side;

export class PlaceWriter {
  readonly writer = new TextWriter();
  protected readonly names = new Map<StorageId, string>();
  private readonly placesNames = new Map<StorageId, string>();
  protected readonly paramNames = new Map<string, string>();
  /** Names of what `declareBases` declares for each param. */
  protected readonly places = new Map<string, { readonly base: string; readonly stride: string }>();
  protected readonly variables = new Map<string, string>();
  protected readonly taken: Set<string>;
  /** The number of this block of columns, where some buffers have a share for each. */
  private share = "";
  protected readonly kernel: Kernel;
  protected readonly dialect: Dialect;

  constructor(kernel: Kernel, dialect: Dialect) {
    this.kernel = kernel;
    this.dialect = dialect;
    this.taken = new Set([
      "ty",
      "tx",
      "thread",
      "batch",
      "head",
      "i",
      "j",
      "row",
      "col",
      "at",
      "inner",
      "point",
      "sequence",
      "tokens",
      "first_token",
      "own",
      "value",
      kernel.name,
    ]);
    for (const param of kernel.params) this.taken.add(param.heads);
    for (const param of kernel.params) this.paramNames.set(param.name, this.unique(param.name));
    for (const [param, name] of this.paramNames) {
      const places = { base: this.unique(`${name}_base`), stride: this.unique(`${name}_stride`) };
      this.places.set(param, places);
    }
    for (const axis of kernel.grid) this.variables.set(axis.name, this.unique(axis.name));
    for (const storage of kernel.storages) {
      const clash = kernel.params.some((param) => param.name === storage.name);
      const place = storage.shape.length === 2 && storage.memory === "register" ? "tile" : "value";
      const name = this.unique(clash ? `${storage.name}_${place}` : storage.name);
      this.names.set(storage.id, name);
      if ((storage.places ?? 1) > 1)
        this.placesNames.set(storage.id, this.unique(`${name}_places`));
    }
  }

  nameOf(id: StorageId): string {
    return this.names.get(id)!;
  }

  /** What the memory of all places of a storage is called, where it has several. */
  placesNameOf(id: StorageId): string {
    return this.placesNames.get(id)!;
  }

  paramName(name: string): string {
    return this.paramNames.get(name)!;
  }

  /** A name nothing else has, and no word of the language. */
  unique(wanted: string): string {
    const base = wanted.replace(/[^A-Za-z0-9_]/g, "_").replace(/^_+/, "") || "value";
    let name = base;
    for (let n = 2; this.taken.has(name) || this.dialect.reserved.has(name); n++)
      name = `${base}_${n}`;
    this.taken.add(name);
    return name;
  }

  storage(id: StorageId): Storage {
    return this.kernel.storages[id]!;
  }

  /** How many tokens this sequence has. */
  protected get tokens(): string {
    return servesPacked(this.kernel) ? "tokens" : this.dialect.scalar("T");
  }

  protected isRegister(id: StorageId): boolean {
    return this.storage(id).memory === "register";
  }

  /** Declarations of what threads hold themselves. */
  declareRegisters(body: readonly Stmt[] = this.kernel.body): void {
    const { writer, dialect } = this;
    const touched = new Set(body.flatMap((stmt) => [...readsOf(stmt), ...writesOf(stmt)]));
    for (const storage of this.kernel.storages) {
      if (storage.memory !== "register" || !touched.has(storage.id)) continue;
      const name = this.nameOf(storage.id);
      const [rows, cols] = storage.shape;
      if (rows === undefined) {
        writer.line(dialect.variable("float", name, dialect.float(0)));
      } else {
        const [down, across] = this.heldOf(rows, cols!);
        const size = `f32[${rows}, ${cols}]: ${down * across} registers each`;
        writer.line(`${dialect.registers(name, down, across)}  // ${size}`);
      }
    }
  }

  /** Rows and columns of the part of a register tile that one thread holds. */
  protected heldOf(rows: number, cols: number): readonly [number, number] {
    return [rows / side, cols / side];
  }

  /** Shared arrays by name and elements, with what they hold. */
  sharedArrays(): { name: string; elements: number; comment: string }[] {
    return this.kernel.storages
      .filter((storage) => storage.memory === "shared")
      .map((storage) => {
        const elements = sharedElements(storage);
        const [rows, cols] = storage.shape;
        const shape =
          cols === undefined
            ? `f32[${rows}]`
            : `f32[${rows}, ${cols}], rows of ${cols + storage.pad}`;
        return { name: this.nameOf(storage.id), elements, comment: `${shape}: ${elements * 4} B` };
      });
  }

  /** The grid point's batch, head and block starts, from its linear number `point`. */
  decodePoint(): void {
    const { writer, dialect, kernel } = this;
    const chunks = this.chunkAxis();
    const number = chunks === null ? "" : this.unique(`${this.variables.get(chunks.name)!}_number`);
    let rest = "point";
    const grid = [...kernel.grid].reverse();
    grid.forEach((axis, n) => {
      const name = this.variables.get(axis.name)!;
      const steps = this.unique(`${name}_count`);
      writer.line(dialect.constant("int", steps, this.pointsOf(axis, axis === chunks)));
      const next = this.unique(n === grid.length - 1 ? "head_point" : "rest_point");
      writer.line(dialect.constant("int", next, dialect.quotient(rest, steps)));
      const index = `${rest} - ${next} * ${steps}`;
      if (axis === chunks) writer.line(dialect.constant("int", number, index));
      else writer.line(dialect.constant("int", name, `(${index}) * ${axis.step}`));
      rest = next;
    });
    const columns = columnAxis(kernel);
    if (columns !== undefined && kernel.params.some(({ shares }) => shares !== undefined)) {
      const column = this.variables.get(columns.name)!;
      this.share = this.unique("share");
      writer.line(dialect.constant("int", this.share, `${column} / ${columns.step}`));
    }
    const heads = dialect.scalar("H");
    const row = this.unique("batch_point");
    writer.line(dialect.constant("int", row, dialect.quotient(rest, heads)));
    writer.line(dialect.constant("offset", "head", `${rest} - ${row} * ${heads}`));
    if (chunks === null) {
      writer.line(dialect.constant("offset", "batch", row));
      return;
    }
    const isPacked = `${dialect.scalar("packed")} == 1`;
    const cuts = this.paramName(cutsParam.name);
    const name = this.variables.get(chunks.name)!;
    const found = dialect.sequenceOf!(cuts, String(chunks.step), number);
    writer.line(dialect.constant("offset", "batch", bare(dialect.choose(isPacked, found, row))));
    const first = `${this.cutAt("batch")} / ${chunks.step} + ${dialect.toInt("batch")}`;
    const before = dialect.choose(isPacked, first, "0");
    writer.line(dialect.constant("int", name, `(${number} - ${before}) * ${chunks.step}`));
  }

  /** Where a packed sequence begins, inside the tensors whatever the caller's cuts are: nobody has checked them. */
  private cutAt(index: string): string {
    const cut = `${this.paramName(cutsParam.name)}[${index}]`;
    return `min(max(${cut}, 0), ${this.dialect.scalar("T")})`;
  }

  /** The axis whose points are chunks of all packed sequences, numbered as what is stored for each is. */
  private chunkAxis(): GridAxis | null {
    const { dialect, kernel } = this;
    if (dialect.sequenceOf === null || !servesPacked(kernel)) return null;
    return kernel.grid.find(({ extent }) => extent === "T") ?? null;
  }

  private pointsOf({ extent, step }: GridAxis, areChunks: boolean): string {
    const { dialect } = this;
    if (extent !== "T") return String(Math.ceil(extent / step));
    const tokens = dialect.scalar("T");
    const alone = `(${tokens} + ${step - 1}) / ${step}`;
    if (!areChunks) return alone;
    const all = `${tokens} / ${step} + ${dialect.scalar("B")}`;
    return bare(dialect.choose(`${dialect.scalar("packed")} == 1`, all, alone));
  }

  // --- small things -------------------------------------------------------------------------

  protected index({ base, offset }: Index): string {
    if (base === null) return String(offset);
    const name = this.variables.get(base)!;
    if (offset === 0) return name;
    return offset < 0 ? `${name} - ${-offset}` : `${name} + ${offset}`;
  }

  protected plus(index: Index, own: string): string {
    const start = this.index(index);
    if (own === "0") return start;
    return start === "0" ? own : `${start} + ${own}`;
  }

  protected fixedLoop(name: string, count: number, body: () => void): void {
    const { writer, dialect } = this;
    if (dialect.unroll !== null) writer.line(dialect.unroll);
    writer.block(`${dialect.loop(name, "0", String(count), "1")} {`, body);
  }

  /** Every element of a register tile that this thread holds. */
  protected eachRegister(rows: number, cols: number, body: () => void): void {
    this.fixedLoop("i", rows / side, () => {
      this.fixedLoop("j", cols / side, () => {
        this.withPlaces(`ty + ${side} * i`, `tx + ${side} * j`, body);
      });
    });
  }

  /** Declares `row` and `col` where `body` mentions them. */
  protected withPlaces(row: string, col: string, body: () => void): void {
    const { writer, dialect } = this;
    const lines = writer.capture(body);
    const mentions = (word: RegExp) => lines.some((line) => word.test(line));
    if (mentions(/\brow\b/)) writer.line(dialect.constant("int", "row", row));
    if (mentions(/\bcol\b/)) writer.line(dialect.constant("int", "col", col));
    writer.restore(lines);
  }

  protected eachShared(count: number, name: string, body: () => void): void {
    const { writer, dialect } = this;
    writer.block(`${dialect.loop(name, "thread", String(count), String(threads))} {`, body);
  }

  protected sharedAt(id: StorageId, row: string, col: string): string {
    const storage = this.storage(id);
    const stride = storage.shape[1]! + storage.pad;
    return `${this.nameOf(id)}[${group(row)} * ${stride} + ${col}]`;
  }

  // --- buffers ------------------------------------------------------------------------------

  protected param(name: string): Param {
    return this.kernel.params.find((param) => param.name === name)!;
  }

  protected colsOf(param: Param): number {
    return (param.shape[1] as number | undefined) ?? 1;
  }

  /** `NAME_base` and, for tokens, `NAME_stride`: where this head's part of each buffer lies. */
  declareBases(): void {
    const { writer, dialect } = this;
    const hasTokens = this.kernel.params.some(({ per }) => per === "token" || per === "chunk");
    const isPacked = servesPacked(this.kernel);
    if (hasTokens && isPacked) {
      // This sequence's tokens: a row of the batch, or between two cuts.
      const packed = dialect.scalar("packed");
      const begin = this.unique("begin");
      const choose = (a: string, b: string) => dialect.choose(`${packed} == 1`, a, b);
      writer.line(dialect.constant("int", "sequence", `${dialect.toInt("batch")} * ${packed}`));
      // A launch without packed sequences may have no cuts: where C chooses, nothing is read of what it does not take.
      writer.line(dialect.constant("int", begin, bare(choose(this.cutAt("sequence"), "0"))));
      const own = `max(${this.cutAt("sequence + 1")}, ${begin}) - ${begin}`;
      writer.line(dialect.constant("int", "tokens", choose(own, dialect.scalar("T"))));
      const first = choose(dialect.toOffset(begin), `batch * ${dialect.scalar("T")}`);
      writer.line(dialect.constant("offset", "first_token", first));
    }
    if (hasTokens && isPacked) this.skipBeyondSequence();
    for (const param of this.kernel.params) {
      if (param.dtype === "i32") continue;
      const fixed = param.shape.reduce<number>((p, n) => p * (n === "T" ? 1 : n), 1);
      const places = this.places.get(param.name)!;
      const [own, all] = [this.ownHead(param), this.allHeads(param)];
      const first = isPacked ? "first_token" : `batch * ${dialect.scalar("T")}`;
      const times = fixed === 1 ? "" : ` * ${fixed}`;
      const base = {
        token: `(${first} * ${all} + ${own})${times}`,
        state: `(batch * ${all} + ${own})${times}`,
        head: `${own.includes(" ") && fixed !== 1 ? `(${own})` : own}${times}`,
        shared: "0",
        chunk: `(${group(this.firstChunk(param))} * ${all} + ${own})${times}`,
      }[param.per];
      const start = dialect.start(param);
      const whole = start === null ? bare(base) : `${start} + ${base}`;
      writer.line(dialect.constant("offset", places.base, whole));
      if (param.per === "token") {
        writer.line(dialect.constant("offset", places.stride, `${all}${times}`));
      }
    }
  }

  /** How many heads a tensor has, and shares of each. */
  private allHeads({ heads, shares }: Param): string {
    const count = this.dialect.scalar(heads);
    return shares === undefined ? count : `(${count} * ${shares})`;
  }

  /** The head of a tensor that is this point's. */
  protected ownHead({ heads, shares }: Param): string {
    const { dialect } = this;
    // Only what kernels write, or wrote, has shares, and that of every head.
    if (shares !== undefined) return `head * ${shares} + ${this.share}`;
    const all = dialect.scalar("H");
    return heads === "H" ? "head" : dialect.headOf("head", all, dialect.scalar(heads));
  }

  /** The number of this sequence's first chunk, in what is stored for each chunk. */
  protected firstChunk({ chunk = 1 }: Param): string {
    const { dialect } = this;
    const rows = `batch * ((${this.tokens} + ${chunk - 1}) / ${chunk})`;
    if (!servesPacked(this.kernel)) return rows;
    const isPacked = `${dialect.scalar("packed")} == 1`;
    return dialect.choose(isPacked, `first_token / ${chunk} + batch`, rows);
  }

  /** Grid axes over tokens count those of all packed sequences: points behind this one's own are none. */
  protected skipBeyondSequence(): void {
    for (const { name, extent } of this.kernel.grid) {
      if (extent !== "T") continue;
      const start = this.variables.get(name)!;
      // Of cuts that fall a chunk may have been found before its sequence.
      const before = this.chunkAxis() === null ? "" : `${start} < 0 || `;
      this.writer.block(`if (${before}${start} >= tokens) {`, () => this.writer.line("return;"));
    }
  }

  protected bufferIndex(view: View, row: string, col: string | null): string {
    const param = this.param(view.param);
    const { base, stride: tokens } = this.places.get(view.param)!;
    const cols = this.colsOf(param);
    const stride = param.per === "token" ? tokens : String(cols);
    const start = view.token === undefined ? base : this.chunkStart(param, base, view.token);
    const first = this.plus(view.row, row);
    const times = stride === "1" ? "" : ` * ${stride}`;
    const at = first === "0" ? start : `${start} + ${group(first)}${times}`;
    return col === null ? at : `${at} + ${this.plus(view.col, col)}`;
  }

  /** Where the part of a chunk begins in a buffer that has one for each. */
  protected chunkStart(param: Param, base: string, token: Index): string {
    const size = param.shape.reduce<number>((p, n) => p * (n === "T" ? 1 : n), 1);
    const chunks = this.dialect.toOffset(`(${group(this.index(token))} / ${param.chunk!})`);
    return `${base} + ${chunks} * ${this.allHeads(param)} * ${size}`;
  }

  /** The condition under which an element of a view lies in its buffer, or null: always. */
  protected inBuffer(
    view: View,
    id: StorageId,
    row: string | null,
    col: string | null,
  ): string | null {
    const param = this.param(view.param);
    const { shape } = this.storage(id);
    const conditions: string[] = [];
    const limit = param.shape[0];
    if (row !== null && limit !== undefined) {
      const fixed = limit !== "T" && view.row.base === null && view.row.offset + shape[0]! <= limit;
      const bound = limit === "T" ? this.tokens : String(limit);
      if (!fixed) conditions.push(`${this.plus(view.row, row)} < ${bound}`);
    }
    if (col !== null) {
      const cols = this.colsOf(param);
      const whole = view.col.base === null && view.col.offset + shape[1]! <= cols;
      const even = view.col.base !== null && cols % shape[1]! === 0;
      if (!whole && !even) conditions.push(`${this.plus(view.col, col)} < ${cols}`);
    }
    return conditions.length > 0 ? conditions.join(" && ") : null;
  }

  protected guardedRead(
    view: View,
    id: StorageId,
    row: string | null,
    col: string | null,
    to: string,
  ): void {
    const { writer, dialect } = this;
    const param = this.param(view.param);
    const read = dialect.read(param, this.bufferIndex(view, row ?? "0", col));
    const condition = this.inBuffer(view, id, row, col);
    if (condition === null) {
      writer.line(`${to} = ${read};`);
      return;
    }
    writer.line(dialect.variable("float", "value", dialect.float(0)));
    writer.block(`if (${condition}) {`, () => writer.line(`value = ${read};`));
    writer.line(`${to} = value;`);
  }

  protected guardedWrite(
    view: View,
    id: StorageId,
    row: string | null,
    col: string | null,
    from: string,
  ): void {
    const { writer, dialect } = this;
    const param = this.param(view.param);
    const write = dialect.write(param, this.bufferIndex(view, row ?? "0", col), from);
    const condition = this.inBuffer(view, id, row, col);
    if (condition === null) writer.line(write);
    else writer.block(`if (${condition}) {`, () => writer.line(write));
  }
}

export function sharedElements(storage: Storage): number {
  const [rows, cols] = storage.shape;
  return cols === undefined ? (rows ?? 1) : rows! * (cols + storage.pad);
}
