/**
 * Tile statements for tensor cores: register tiles in the layout that matrix instructions accumulate in.
 *
 * A tile [R, C] is cut over a grid of warps, `down` by `across`. Of its blocks of 16 rows warp w has every
 * `down`th, from w % down on; its columns are one piece of C / across, the w / down th. Inside a block of
 * 16 x 8 lane l holds the rows l / 4 and l / 4 + 8 and two neighbouring columns from l % 4 * 2 on: what
 * `mma.m16n8k16` and `wgmma.m64nNk16` give (PTX ISA 8.7, 9.7.14 and 9.7.15).
 *
 * Factors of products are shared tiles in 16 bits, in panels of 64 columns with exchanged 16-byte pieces
 * (helpers/place_in_tile.cuh): the layout of `ldmatrix` without bank conflicts, and of `wgmma`.
 */
import { CompilerBug } from "../../compiler/support/never.ts";
import { flatten, readsOf, writesOf } from "../../compiler/tile/accesses.ts";
import type {
  Copy,
  CopyAsync,
  CumSumStmt,
  Expr,
  Fold,
  Invert,
  Join,
  Kernel,
  Loop,
  Mma,
  MmaParts,
  Param,
  ReduceStmt,
  Storage,
  StorageId,
  Stmt,
  Store,
  View,
  Wait,
  Window,
} from "../../compiler/tile/ir.ts";
import { mayBeAbsent, servesPacked } from "../../compiler/tile/ir.ts";
import { placesRead } from "../../compiler/tile/places-read.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { CLikeWalker, bare, group, mentions } from "../c-like/walk.ts";
import type { Arrival, Arrivals, Waiting } from "./arrivals.ts";
import { arrivalOf, arrivalsIn, arrivalsOf, isByEngine } from "./arrivals.ts";
import type { Use, WideProduct } from "./ops.ts";

/** How many warps share the rows and the columns of a tile, and what each has of it. */
interface Warps {
  readonly down: number;
  readonly across: number;
  /** Blocks of 16 rows and of 8 columns of one warp. */
  readonly rowBlocks: number;
  readonly colBlocks: number;
  /** Those that have anything to do; absent: all. */
  readonly active?: ReadonlySet<number>;
}

/** The first choice is what a warpgroup of `wgmma` has: four warps down. */
const tall = [
  [4, 2],
  [2, 4],
  [1, 8],
  [8, 1],
  [4, 1],
  [2, 2],
  [1, 4],
  [2, 1],
  [1, 2],
  [1, 1],
] as const;

/** Of few rows a warp has all, if it can: it sums down them alone. */
const flat = [...tall].sort(([a], [b]) => a - b);

export function warpsOf(rows: number, cols: number, warps = 8): Warps {
  const grids = rows % 64 === 0 ? tall : flat;
  const fitting = grids.filter(
    ([down, across]) =>
      down * across <= warps && (rows / 16) % down === 0 && (cols / 8) % across === 0,
  );
  const most = Math.max(...fitting.map(([down, across]) => down * across));
  const [down, across] = fitting.find(([d, a]) => d * a === most)!;
  return { down, across, rowBlocks: rows / 16 / down, colBlocks: cols / 8 / across };
}

/** A warp's own rows are 16 in a row, or all of them; it sums them in steps that double. */
export function sumsInRegisters(rows: number, cols: number, block: number): boolean {
  return (block <= 16 || warpsOf(rows, cols).down === 1) && Number.isInteger(Math.log2(block));
}

/** Float registers of a thread for a tile among so many warps. */
export function fragmentRegisters(rows: number, cols: number, warps = 8): number {
  const { rowBlocks, colBlocks } = warpsOf(rows, cols, warps);
  return rowBlocks * colBlocks * 4;
}

/** Bytes of a storage in shared memory, with all its places. */
export function sharedBytesOf(storage: Storage): number {
  return placeBytesOf(storage) * (storage.places ?? 1);
}

/** Bytes of one of a storage's places. */
export function placeBytesOf({ shape, dtype, pad }: Storage): number {
  const [rows = 1, cols] = shape;
  if (cols === undefined) return Math.ceil(rows / 4) * 16;
  if (dtype === "f32") return Math.ceil((rows * (cols + pad)) / 4) * 16;
  return rows * Math.ceil(cols / 64) * 128;
}

/** A param whose tiles of so many rows the copy engine copies, and the name of the map that tells it where they lie. */
export interface Mapped {
  readonly param: Param;
  readonly rows: number;
  readonly name: string;
}

export class FragmentWalker extends CLikeWalker {
  private readonly use: Use;
  private readonly arrivals: Arrivals;
  private readonly wideFactors: ReadonlySet<StorageId>;
  private readonly copiedByThreads: readonly StorageId[];
  readonly maps: readonly Mapped[];
  /** Of lists of statements in loops: which place this turn's tiles arrive at, and whether it was an even time. */
  private readonly turnNames = new Map<
    Waiting,
    { readonly stage: string; readonly parity: string }
  >();
  private readonly mapNames = new Map<string, { readonly head: string; readonly chunk: string }>();
  /** What of a turn nothing has read yet, and nobody waited for. */
  private awaited: Arrival | null = null;
  /** Running sums of vectors so far. */
  private sums = 0;
  /** The role whose statements are being written, and how many threads execute them. */
  private role: number | null = null;
  private threads: number;

  constructor(kernel: Kernel, dialect: Dialect, use: Use) {
    super(kernel, dialect);
    this.use = use;
    this.threads = kernel.threads;
    for (const name of [
      "lane",
      "warp",
      "memory",
      "piece",
      "bits",
      "before",
      "step",
      "other",
      "sum",
      "turn",
      "words",
      "role",
      "arrivals",
      "later",
      "first_row",
      "outer",
    ]) {
      this.taken.add(name);
    }
    this.wideFactors = wideFactorsOf(kernel);
    this.arrivals = arrivalsOf(kernel);
    const copies = [...flatten(kernel.body)].filter((stmt) => stmt.kind === "copy-async");
    this.copiedByThreads = copies.filter((copy) => !isByEngine(copy, kernel)).map(({ dst }) => dst);
    for (const list of this.arrivals.lists.filter(({ isLoop }) => isLoop)) {
      this.turnNames.set(list, { stage: this.unique("stage"), parity: this.unique("parity") });
    }
    this.maps = this.mapped();
  }

  /** Each param with each number of rows that tiles of it have. */
  private mapped(): Mapped[] {
    const maps: Mapped[] = [];
    const waits = this.arrivals.lists.flatMap(arrivalsIn);
    for (const { view, dst } of waits.flatMap(({ tiles }) => tiles)) {
      const param = this.param(view.param);
      const [rows] = this.storage(dst).shape as [number, number];
      if (maps.some((one) => one.param === param && one.rows === rows)) continue;
      const name = this.paramName(param.name);
      maps.push({ param, rows, name: this.unique(`${name}_map`) });
      if (this.mapNames.has(param.name)) continue;
      const names = { head: this.unique(`${name}_head`), chunk: this.unique(`${name}_chunk`) };
      this.mapNames.set(param.name, names);
    }
    return maps;
  }

  /** How many tiles arrive at a time at each of the block's places for arrivals. */
  get arrivalCounts(): readonly number[] {
    return this.arrivals.counts;
  }

  /** Where tiles of this point begin in what maps tell of. */
  override declareBases(): void {
    super.declareBases();
    if (this.maps.length === 0) return;
    const { writer, dialect } = this;
    const isPacked = `${dialect.scalar("packed")} == 1`;
    const choose = (packed: string, alone: string) =>
      servesPacked(this.kernel) ? bare(dialect.choose(isPacked, packed, alone)) : alone;
    if (this.maps.some(({ param }) => param.per === "token")) {
      writer.line(`const int first_row = ${choose("(int)first_token", "0")};`);
      writer.line(`const int outer = ${choose("0", "(int)batch")};`);
    }
    for (const [name, { head, chunk }] of this.mapNames) {
      const param = this.param(name);
      writer.line(`const int ${head} = (int)(${bare(this.ownHead(param))});`);
      if (param.per !== "chunk") continue;
      writer.line(`const int ${chunk} = (int)(${bare(this.firstChunk(param))});`);
    }
    const counts = this.arrivalCounts.join(", ");
    writer.line(`${this.use("open_arrivals")}<${counts}>(arrivals);`);
  }

  override declareRegisters(body: readonly Stmt[] = this.kernel.body): void {
    super.declareRegisters(body);
    for (const [list, { stage, parity }] of this.turnNames) {
      if (list.places > 1) this.writer.line(`unsigned ${stage} = 0;`);
      if (arrivalsIn(list).length > 0) this.writer.line(`int ${parity} = 0;`);
    }
  }

  /** At a turn's end what is copied ahead moves on to its next place. */
  protected override turn({ body, note }: Loop): void {
    const { writer } = this;
    const list = this.arrivals.lists.find(({ stmts }) => body.some((stmt) => stmts.has(stmt)));
    if (!list) return this.body(body, note);
    const { stage, parity } = this.turnNames.get(list)!;
    const { ahead, places, late } = list;
    this.awaited = late;
    const lines = writer.capture(() => this.body(body, note));
    this.awaited = null;
    for (const id of ahead) {
      const [name, storage] = [this.nameOf(id), this.storage(id)];
      if (!mentions(lines, name)) continue;
      const type = storage.dtype === "f32" ? "float" : "unsigned char";
      writer.line(`${type}* const ${name} = ${this.placeText(id, stage)};`);
    }
    writer.restore(lines);
    if (places > 1) writer.line(`${stage} = (${stage} + 1) % ${places};`);
    if (arrivalsIn(list).length === 0) return;
    writer.line(`${parity} ^= ${places > 1 ? `${stage} == 0` : "1"};`);
  }

  private listOf(stmt: Stmt): Waiting | undefined {
    return this.arrivals.lists.find(({ stmts }) => stmts.has(stmt));
  }

  /** Where a wait's tiles of a turn arrive, by the number of the turn's place. */
  private arrivalText({ first, places }: Arrival, number: string): string {
    const parts = [
      "arrivals",
      ...(first > 0 ? [String(first)] : []),
      ...(places > 1 ? [number] : []),
    ];
    return parts.join(" + ");
  }

  /** One of a storage's places, by its number. */
  private placeText(id: StorageId, number: string): string {
    const storage = this.storage(id);
    const size = placeBytesOf(storage) / (storage.dtype === "f32" ? 4 : 1);
    return `${this.nameOf(id)}_places + ${number} * ${size}`;
  }

  /** The statements of a role, as its threads execute them. */
  inRole(role: number, body: () => void): void {
    [this.role, this.threads] = [role, this.kernel.roles![role]!];
    body();
    [this.role, this.threads] = [null, this.kernel.threads];
  }

  /** Gives each thread at work its registers; all were launched with as many. */
  holdRegisters(registers: number, launched: number): void {
    this.writer.line(`${this.use("hold_registers")}<${registers}, ${launched}>();`);
  }

  private warpsOf(rows: number, cols: number): Warps {
    return warpsOf(rows, cols, this.threads / 32);
  }

  protected override statement(stmt: Stmt): void {
    const { writer } = this;
    this.awaitLate(stmt);
    switch (stmt.kind) {
      case "barrier":
        return stmt.role === undefined ? super.statement(stmt) : void writer.line(this.meeting());
      // Numbers below are those of the barriers of all and of each role.
      case "signal":
      case "await": {
        const name = this.use(stmt.kind === "signal" ? "arrive_at" : "meet_at");
        const number = 1 + this.kernel.roles!.length + stmt.number;
        return void writer.line(`${name}<${number}, ${this.kernel.threads}>();`);
      }
      case "mma-parts":
        return this.mmaParts(stmt);
      case "fold":
        return this.fold(stmt);
      case "join":
        return this.join(stmt);
      default:
        return super.statement(stmt);
    }
  }

  /** A barrier of the threads at work. */
  private meeting(): string {
    return this.role === null
      ? this.dialect.barrier
      : `${this.use("meet_at")}<${1 + this.role}, ${this.threads}>();`;
  }

  protected override heldOf(rows: number, cols: number): readonly [number, number] {
    const { rowBlocks, colBlocks } = this.warpsOf(rows, cols);
    return [2 * rowBlocks, 2 * colBlocks];
  }

  // --- places -------------------------------------------------------------------------------

  /** Row of register (i, ...) of a tile: `half` is i % 2, `block` i / 2. */
  private rowText(warps: Warps, block: string, half: string): string {
    const warp = warps.down === 1 ? "" : ` + warp % ${warps.down} * 16`;
    const blocks = warps.rowBlocks === 1 ? "" : `${block} * ${16 * warps.down} + `;
    return `${blocks}${half} * 8 + lane / 4${warp}`;
  }

  private colText(warps: Warps, block: string): string {
    const blocks = warps.colBlocks === 1 ? "" : `${block} * 8 + `;
    return `${this.firstCol(warps, blocks)}lane % 4 * 2`;
  }

  /** Where a warp's columns begin, as the head of a sum. */
  private firstCol({ down, across, colBlocks }: Warps, rest: string): string {
    if (across === 1) return rest;
    const warp = down === 1 ? "warp" : `warp / ${down}`;
    return `${rest}${warp} * ${colBlocks * 8} + `;
  }

  /** Runs only the warps that have a part of the tile. */
  private activeWarps({ down, across, active }: Warps, body: () => void): void {
    const count = down * across;
    if (active !== undefined && active.size < count) {
      const bits = [...active].reduce((sum, warp) => sum + 2 ** warp, 0);
      this.writer.block(`if (0x${bits.toString(16)}u >> warp & 1) {`, body);
      return;
    }
    if (count * 32 === this.threads) return body();
    this.writer.block(`if (warp < ${count}) {`, body);
  }

  protected override eachRegister(rows: number, cols: number, body: () => void): void {
    const warps = this.warpsOf(rows, cols);
    this.activeWarps(warps, () => {
      this.fixedLoop("i", 2 * warps.rowBlocks, () => {
        this.fixedLoop("j", 2 * warps.colBlocks, () => {
          const col = `${this.colText(warps, "(j / 2)")} + j % 2`;
          this.withPlaces(this.rowText(warps, "(i / 2)", "i % 2"), col, body);
        });
      });
    });
  }

  /** Without a loop where each thread has one element, unrolled where each has as many. */
  protected override eachShared(count: number, name: string, body: () => void): void {
    const { writer } = this;
    const { threads } = this;
    if (count <= threads) {
      const inner = () => {
        writer.line(`const int ${name} = thread;`);
        body();
      };
      return void writer.block(count === threads ? "{" : `if (thread < ${count}) {`, inner);
    }
    if (count % threads !== 0) {
      const head = this.dialect.loop(name, "thread", String(count), String(threads));
      return void writer.block(`${head} {`, body);
    }
    this.fixedLoop("turn", count / threads, () => {
      writer.line(`const int ${name} = turn * ${threads} + thread;`);
      body();
    });
  }

  /**
   * Every place of a tile in pieces of so many columns, as `row` and `col`. Where threads are whole rows a turn is a number
   * of rows more, so that addresses of all turns differ by what they share.
   */
  private eachPiece(rows: number, cols: number, width: number, body: () => void): void {
    const pieces = cols / width;
    const { threads } = this;
    const scaled = (index: string) => (width === 1 ? index : `${index} * ${width}`);
    if ((rows * pieces) % threads !== 0 || threads % pieces !== 0) {
      return this.eachShared(rows * pieces, "piece", () =>
        this.withPlaces(`piece / ${pieces}`, scaled(`piece % ${pieces}`), body),
      );
    }
    this.fixedLoop("turn", (rows * pieces) / threads, () => {
      const row = `turn * ${threads / pieces} + thread / ${pieces}`;
      this.withPlaces(row, scaled(`thread % ${pieces}`), body);
    });
  }

  /** Every pair of neighbouring columns that this thread holds: registers [i][2 j] and [i][2 j + 1]. */
  private eachPair(rows: number, cols: number, body: () => void): void {
    const warps = this.warpsOf(rows, cols);
    this.activeWarps(warps, () => {
      this.fixedLoop("i", 2 * warps.rowBlocks, () => {
        this.fixedLoop("j", warps.colBlocks, () => {
          this.withPlaces(this.rowText(warps, "(i / 2)", "i % 2"), this.colText(warps, "j"), body);
        });
      });
    });
  }

  // --- memory -------------------------------------------------------------------------------

  /** Address of an element of a 16-bit tile, as a pointer to bytes. */
  private inTile(id: StorageId, row: string, col: string): string {
    const { shape } = this.storage(id);
    return `${this.nameOf(id)} + ${this.use("place_in_tile")}(${shape[0]}, ${row}, ${col})`;
  }

  private isNarrow(id: StorageId): boolean {
    return this.storage(id).memory === "shared" && this.storage(id).dtype !== "f32";
  }

  protected override copy(stmt: Copy): void {
    const { dst, src } = stmt;
    const narrow = [dst, src].find(({ storage }) => this.isNarrow(storage));
    if (narrow === undefined) return super.copy(stmt);
    this.wholeTile(dst);
    this.wholeTile(src);
    const { writer } = this;
    const { dtype } = this.storage(narrow.storage);
    const word = `*(unsigned*)(${this.inTile(narrow.storage, "row", "col")})`;
    const register = this.nameOf((narrow === dst ? src : dst).storage);
    if (this.warpsOf(dst.rows, dst.cols).colBlocks % 2 === 0) {
      this.copyBlocks(stmt, narrow.storage, register, narrow === dst);
      return;
    }
    const pair = [`${register}[i][2 * j]`, `${register}[i][2 * j + 1]`];
    this.eachPair(dst.rows, dst.cols, () => {
      if (narrow === dst) {
        writer.line(`${word} = ${this.packed(dtype, pair, stmt.rest)};`);
        return;
      }
      const from = this.use(`from_${dtype as "f16" | "bf16"}`);
      writer.line(`const unsigned bits = ${word};`);
      writer.line(`${pair[0]} = ${from}((unsigned short)bits);`);
      writer.line(`${pair[1]} = ${from}((unsigned short)(bits >> 16));`);
    });
    if (narrow === dst) this.showToProducts([narrow.storage]);
  }

  /** Between registers and a 16-bit tile, 16 rows and columns of a warp at a time. */
  private copyBlocks(
    { dst: { rows, cols }, rest }: Copy,
    tile: StorageId,
    name: string,
    isStore: boolean,
  ): void {
    const { writer } = this;
    const warps = this.warpsOf(rows, cols);
    const { shape, dtype } = this.storage(tile);
    const words = [0, 2].flatMap((col) =>
      [0, 1].map((half) => [0, 1].map((n) => `${name}[2 * i + ${half}][4 * j + ${col + n}]`)),
    );
    const warp = warps.down === 1 ? "" : `warp % ${warps.down} * 16`;
    const down = warps.rowBlocks === 1 ? "" : `i * ${16 * warps.down}`;
    const across = warps.colBlocks === 2 ? "" : "j * 16";
    const part = this.firstCol(warps, "").replace(/ \+ $/, "");
    const sum = (parts: readonly string[]) => parts.filter((one) => one !== "").join(" + ") || "0";
    const [row, col] = [sum([down, warp]), sum([across, part])];
    this.activeWarps(warps, () => {
      this.fixedLoop("i", warps.rowBlocks, () => {
        this.fixedLoop("j", warps.colBlocks / 2, () => {
          if (isStore) {
            const packed = words.map((pair) => this.packed(dtype, pair, rest)).join(", ");
            const place = `${this.nameOf(tile)}, ${shape[0]}, ${row}, ${col}`;
            writer.line(`${this.use("store_matrices")}(${place}, ${packed});`);
            return;
          }
          const from = this.use(`from_${dtype as "f16" | "bf16"}`);
          const at = this.inTile(tile, `${row} + lane % 16`, `${col} + lane / 16 * 8`);
          writer.line("unsigned words[4];");
          writer.line(`${this.use("load_matrices")}(words, ${this.use("shared_address")}(${at}));`);
          words.forEach(([low, high], n) => {
            writer.line(`${low} = ${from}((unsigned short)words[${n}]);`);
            writer.line(`${high} = ${from}((unsigned short)(words[${n}] >> 16));`);
          });
        });
      });
    });
    if (isStore) this.showToProducts([tile]);
  }

  /** What threads wrote to tiles `wgmma` reads past the usual way. */
  private showToProducts(tiles: readonly StorageId[]): void {
    if (!tiles.some((id) => this.wideFactors.has(id))) return;
    this.writer.line(`${this.use("show_to_products")}();`);
  }

  /** Two numbers in a word, or what they lose there. */
  private packed(dtype: Storage["dtype"], pair: readonly string[], rest?: true): string {
    const name = `pack_${rest ? "rest_" : ""}${dtype as "f16" | "bf16"}` as const;
    return `${this.use(name)}(${pair.join(", ")})`;
  }

  /** To a place of its own for each turn: this one's, or of a turn behind it. */
  protected override copyAsync(stmt: CopyAsync): void {
    const { writer } = this;
    const { dst, ahead, turns } = stmt;
    const list = this.listOf(stmt);
    if (ahead === 0) {
      // The first turn's place has no name in front of the loop.
      const isNamed = turns === "all" || (this.storage(dst).places ?? 1) === 1;
      const place = isNamed
        ? this.nameOf(dst)
        : this.placeText(dst, this.turnNames.get(list!)!.stage);
      return this.copyTo(stmt, place);
    }
    const { stage } = this.turnNames.get(list!)!;
    writer.line(`const unsigned later = (${stage} + ${ahead}) % ${list!.places};`);
    this.copyTo(stmt, this.placeText(dst, "later"));
  }

  private copyTo(stmt: CopyAsync, place: string): void {
    const list = this.listOf(stmt);
    const arrival = list === undefined ? null : arrivalOf(list, stmt);
    if (arrival === null) return this.copyByThreads(stmt, place);
    const stage = stmt.ahead > 0 ? "later" : (this.turnNames.get(list!)?.stage ?? "");
    this.copyByEngine(stmt, place, this.arrivalText(arrival, stage));
  }

  /** By the copy engine of Hopper; see helpers/copy_tile.cuh. */
  private copyByEngine({ dst, view }: CopyAsync, place: string, arrival: string): void {
    const param = this.param(view.param);
    const [rows, cols] = this.storage(dst).shape as [number, number];
    const map = this.maps.find((one) => one.param === param && one.rows === rows)!;
    const { head, chunk } = this.mapNames.get(param.name)!;
    const width =
      view.col.base === null ? Math.min(cols, this.colsOf(param) - view.col.offset) : cols;
    const row = this.index(view.row);
    const isToken = param.per === "token";
    const [first, part, stride, left] = isToken
      ? [
          `first_row + ${row}`,
          "outer",
          this.places.get(param.name)!.stride,
          `${this.tokens} - ${group(row)}`,
        ]
      : [
          row,
          `${chunk} + ${group(this.index(view.token!))} / ${param.chunk!}`,
          String(this.colsOf(param)),
          String(rows),
        ];
    for (const name of ["bf16", "place_in_tensor", "tensor_map"] as const) this.use(name);
    const at = `{${[this.index(view.col), first, head, part].join(", ")}}`;
    const from = `${this.paramName(param.name)} + ${this.bufferIndex(view, "0", "0")}`;
    const shape = [rows, cols, width, this.threads].join(", ");
    const args = [place, arrival, map.name, at, from, stride, left].join(", ");
    this.writer.line(`${this.use("copy_tile")}<${shape}>(${args});`);
  }

  /** Rows of 16-bit numbers in pieces of 16 bytes, where rows of the buffer are made of such. */
  private copyByThreads({ dst, view }: CopyAsync, name: string): void {
    const { writer } = this;
    const [rows, cols] = this.storage(dst).shape as [number, number?];
    if (cols === undefined) return this.copyWords(dst, view, name);
    const inTile = `${name} + ${this.use("place_in_tile")}(${rows}, row, col)`;
    const param = this.param(view.param);
    const width = this.colsOf(param);
    const buffer = this.paramName(param.name);
    const isEven = width % 8 === 0 && view.col.base === null && view.col.offset % 8 === 0;
    if (!isEven && view.col.base === null) {
      return this.eachPiece(rows, cols, 1, () => {
        const place = `*(unsigned short*)(${inTile})`;
        const inside = this.inBuffer(view, dst, "row", "col") ?? "true";
        const value = `${buffer}[${this.bufferIndex(view, "row", "col")}]`;
        writer.line(`${place} = ${inside} ? ${value} : (unsigned short)0;`);
      });
    }
    this.eachPiece(rows, cols, 8, () => {
      const inside = this.inBuffer(view, dst, "row", "col") ?? "true";
      const from = `${buffer} + ${this.bufferIndex(view, "row", "col")}`;
      const to = `${this.use("shared_address")}(${inTile})`;
      // What is outside is not read: its address need not be one.
      writer.line(`${this.use("copy_async")}(${to}, ${from}, ${inside});`);
    });
  }

  /** A vector of float32 numbers, one at a time: they lie as far apart as there are heads. */
  private copyWords(dst: StorageId, view: View, name: string): void {
    const [rows] = this.storage(dst).shape;
    this.eachShared(rows!, "row", () => {
      const from = `${this.paramName(view.param)} + ${this.bufferIndex(view, "row", null)}`;
      const own = this.inBuffer(view, dst, "row", null) ?? "true";
      const isThere = `${this.paramName(view.param)} != nullptr`;
      const inside = mayBeAbsent(this.param(view.param)) ? `${own} && ${isThere}` : own;
      const to = `${name} + row`;
      this.writer.line(`${this.use("copy_word_async")}(${to}, ${from}, ${inside});`);
    });
  }

  protected override closeCopies(): void {
    this.writer.line(`${this.use("close_copies")}();`);
  }

  protected override wait(stmt: Wait): void {
    const { writer } = this;
    this.closeCopies();
    writer.line(`${this.use("wait_for_copies")}<${stmt.pending}>();`);
    const list = this.listOf(stmt);
    const arrival = list?.arrivals.get(stmt);
    if (arrival) {
      this.waitForTiles(list!, arrival);
      const { role } = this;
      this.trim(arrival.tiles.filter((tile) => tile.role === undefined || tile.role === role));
    }
    this.showToProducts(this.copiedByThreads);
    writer.line(this.dialect.barrier);
  }

  private waitForTiles(list: Waiting, arrival: Arrival): void {
    const { stage, parity } = this.turnNames.get(list) ?? { stage: "", parity: "0" };
    const place = this.arrivalText(arrival, stage);
    this.writer.line(`${this.use("wait_for_tiles")}(${place}, ${parity});`);
  }

  /** Before a role's first statement that reads what this turn copies; without an engine it is there since the last wait. */
  private awaitLate(stmt: Stmt): void {
    const late = this.awaited;
    if (late === null || !late.tiles.some(({ dst }) => readsOf(stmt).includes(dst))) return;
    this.awaited = null;
    this.waitForTiles(this.listOf(late.tiles[0]!)!, late);
    // All of them, whoever copied them: both roles write the same zeros.
    this.trim(late.tiles, this.meeting());
  }

  /** Behind the end of a packed sequence the copy engine finds the next one. */
  private trim(tiles: readonly CopyAsync[], barrier: string | null = null): void {
    if (!servesPacked(this.kernel)) return;
    const { writer, dialect } = this;
    const own = tiles.filter(({ view }) => this.param(view.param).per === "token");
    const rowsLeft = ({ view }: CopyAsync) => `${this.tokens} - ${group(this.index(view.row))}`;
    for (const left of new Set(own.map(rowsLeft))) {
      const alike = own.filter((tile) => rowsLeft(tile) === left);
      const most = Math.max(...alike.map(({ dst }) => this.storage(dst).shape[0]!));
      writer.block(`if (${dialect.scalar("packed")} == 1 && ${left} < ${most}) {`, () => {
        for (const { dst } of alike) {
          const shape = [...this.storage(dst).shape, this.threads].join(", ");
          writer.line(`${this.use("trim_tile")}<${shape}>(${this.nameOf(dst)}, ${left});`);
        }
        if (barrier !== null) writer.line(barrier);
      });
    }
  }

  protected override store(stmt: Store): void {
    const { src, view } = stmt;
    if (this.isNarrow(src)) return this.storeTile(src, view);
    const [rows, cols] = this.storage(src).shape as [number, number?];
    const param = this.param(view.param);
    const isEven = this.colsOf(param) % 2 === 0 && view.col.offset % 2 === 0;
    if (cols === undefined || param.dtype === "f32" || !isEven) return super.store(stmt);
    if (this.colsOf(param) % 8 === 0 && view.col.offset % 8 === 0) {
      if (this.warpsOf(rows, cols).colBlocks % 2 === 0) return this.storePieces(src, view);
    }
    const name = this.nameOf(src);
    const pair = [`${name}[i][2 * j]`, `${name}[i][2 * j + 1]`];
    this.eachPair(rows, cols, () => {
      const place = `${this.paramName(param.name)}[${this.bufferIndex(view, "row", "col")}]`;
      const write = `*(unsigned*)&${place} = ${this.packed(param.dtype as Storage["dtype"], pair)};`;
      const inside = this.inBuffer(view, src, "row", "col");
      if (inside === null) this.writer.line(write);
      else this.writer.block(`if (${inside}) {`, () => this.writer.line(write));
    });
  }

  /**
   * In pieces of 16 bytes: the four lanes that have pieces of a row exchange words, so that each writes
   * one. Of an odd number of pairs of blocks the two halves of a block of rows make up the four.
   */
  private storePieces(src: StorageId, view: View): void {
    const { writer } = this;
    const [rows, cols] = this.storage(src).shape as [number, number];
    const param = this.param(view.param);
    const name = this.nameOf(src);
    const warps = this.warpsOf(rows, cols);
    const { rowBlocks, colBlocks } = warps;
    const inRow = colBlocks % 4 === 0;
    const at = (n: number) => {
      const row = inRow ? "[i]" : `[2 * i + ${n >> 1}]`;
      const block = inRow ? `8 * j + ${2 * n}` : `4 * j + ${2 * (n % 2)}`;
      return [`${name}${row}[${block}]`, `${name}${row}[${block} + 1]`];
    };
    const words = [0, 1, 2, 3].map((n) => this.packed(param.dtype as Storage["dtype"], at(n)));
    const row = inRow
      ? this.rowText(warps, "(i / 2)", "i % 2")
      : this.rowText(warps, "i", "lane % 4 / 2");
    const blocks = inRow ? "j * 32 + " : "j * 16 + ";
    const col = `${this.firstCol(warps, blocks)}${inRow ? "lane % 4 * 8" : "lane % 2 * 8"}`;
    this.activeWarps(warps, () => {
      this.fixedLoop("i", inRow ? 2 * rowBlocks : rowBlocks, () => {
        this.fixedLoop("j", colBlocks / (inRow ? 4 : 2), () => {
          writer.line(`unsigned words[4] = {${words.join(", ")}};`);
          writer.line(`${this.use("turn_in_quad")}(words);`);
          this.withPlaces(row, col, () => {
            const place = `${this.paramName(param.name)}[${this.bufferIndex(view, "row", "col")}]`;
            const write = `${this.use("store_words")}(&${place}, words);`;
            const inside = this.inBuffer(view, src, "row", "col");
            if (inside === null) writer.line(write);
            else writer.block(`if (${inside}) {`, () => writer.line(write));
          });
        });
      });
    });
  }

  /** A 16-bit tile as it lies in shared memory, to a buffer of its type. */
  private storeTile(src: StorageId, view: View): void {
    const { writer } = this;
    const [rows, cols] = this.storage(src).shape as [number, number];
    const param = this.param(view.param);
    const isEven =
      this.colsOf(param) % 8 === 0 && view.col.base === null && view.col.offset % 8 === 0;
    const [width, type] = isEven ? [8, "uint4"] : [1, "unsigned short"];
    this.eachPiece(rows, cols, width, () => {
      const place = `${this.paramName(param.name)}[${this.bufferIndex(view, "row", "col")}]`;
      const write = `*(${type}*)&${place} = *(const ${type}*)(${this.inTile(src, "row", "col")});`;
      const inside = this.inBuffer(view, src, "row", "col");
      if (inside === null) writer.line(write);
      else writer.block(`if (${inside}) {`, () => writer.line(write));
    });
  }

  private wholeTile({ storage, row, col, rows, cols }: Window): void {
    const { shape, name } = this.storage(storage);
    const isWhole = rows === shape[0] && cols === shape[1] && row.offset === 0 && col.offset === 0;
    if (!isWhole || row.base !== null || col.base !== null) {
      throw new CompilerBug(`fragments: a part of ${name} cannot be a factor`);
    }
  }

  // --- products and folds -------------------------------------------------------------------

  protected override mma(stmt: Mma): void {
    const { dst, lhs, rhs, transposeLhs, transposeRhs } = stmt;
    for (const window of [dst, lhs, rhs]) this.wholeTile(window);
    const { dtype } = this.storage(lhs.storage);
    const number = this.use(dtype as "f16" | "bf16");
    const warps = this.warpsOf(dst.rows, dst.cols);
    const { down, across, colBlocks } = warps;
    const depth = transposeLhs ? lhs.rows : lhs.cols;
    const isWide = isByWarpgroups(stmt, warps);
    const width = colBlocks * 8;
    if (isWide) this.use(`multiply_64x${width}_${number}` as WideProduct);
    const name = this.use(isWide ? "multiply_by_warpgroups" : "multiply_by_warps");
    const shape = [number, depth, transposeLhs, transposeRhs, ...(isWide ? [] : [down]), across];
    const [to, left, right] = [dst, lhs, rhs].map(({ storage }) => this.nameOf(storage));
    const turned = (text: string, isTurned: boolean) => (isTurned ? `${text}^T` : text);
    this.writer.line(
      `// ${to} += ${turned(left!, transposeLhs)} @ ${turned(right!, transposeRhs)}`,
    );
    this.activeWarps(isWide ? warps : this.readingWarps(dst, warps), () => {
      this.writer.line(`${name}<${shape.join(", ")}>(${to}, ${left}, ${right});`);
    });
  }

  /** Of products in parts, and their sums, what nothing reads is left out: see helpers/multiply_to_parts.cuh. */
  private mmaParts({ dst, lhs, rhs }: MmaParts): void {
    const [rows, cols] = this.storage(lhs).shape as [number, number];
    const { down, across } = this.warpsOf(rows, cols);
    const { shape, pad } = this.storage(dst);
    if (down !== 1 || across * rows !== shape[0]) {
      throw new CompilerBug(`fragments: ${this.nameOf(dst)} has no part for each warp`);
    }
    const all = [...flatten(this.kernel.body)];
    const join = all.find((stmt) => stmt.kind === "join" && stmt.src === dst) as Join;
    const numbers = [this.blocksRead(join.dst), across, shape[1]! + pad].join(", ");
    const [to, left, right] = [dst, lhs, rhs].map((id) => this.nameOf(id));
    this.writer.line(`// ${to} = ${left} @ ${right}^T`);
    const name = this.use("multiply_to_parts");
    this.writer.line(`${name}<${numbers}>(${to}, ${left}, ${right});`);
  }

  private joinParts({ dst, src }: Join): void {
    const [rows, cols] = this.storage(dst).shape as [number, number];
    const { shape, pad } = this.storage(src);
    const warps = this.warpsOf(rows, cols);
    const { down, across } = warps;
    const blocks = this.blocksRead(dst);
    const numbers = [blocks, shape[0]! / rows, rows, shape[1]! + pad, down, across].join(", ");
    this.activeWarps(warps, () => {
      const name = this.use("join_parts");
      this.writer.line(`${name}<${numbers}>(${this.nameOf(dst)}, ${this.nameOf(src)});`);
    });
  }

  /** A bit for each block of 16 rows and 8 columns of a tile that anything is read of. */
  private blocksRead(id: StorageId): string {
    const [rows, cols] = this.storage(id).shape as [number, number];
    const isRead = placesRead(this.kernel, id) ?? (() => true);
    let bits = 0;
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        if (isRead(row, col))
          bits |= 1 << (Math.floor(row / 16) * (cols / 8) + Math.floor(col / 8));
      }
    }
    return `0x${(bits >>> 0).toString(16)}u`;
  }

  /** Of the warps that share a tile those whose part is read. */
  private readingWarps({ storage, rows, cols }: Window, warps: Warps): Warps {
    const isRead = placesRead(this.kernel, storage);
    if (isRead === null) return warps;
    const { down, across } = warps;
    const reading = new Set<number>();
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        const warp = (Math.floor(row / 16) % down) + down * Math.floor((col * across) / cols);
        if (isRead(row, col)) reading.add(warp);
      }
    }
    return { ...warps, active: reading };
  }

  /** Of a vector a warp sums up 32 elements at a time, in five steps: what is 1, 2, 4 ... lanes before. */
  protected override cumsum(stmt: CumSumStmt): void {
    const { dst, src, reverse, exclusive, block } = stmt;
    const [size, cols] = this.storage(src).shape as [number, number?];
    if (cols !== undefined && this.isNarrow(src)) return this.sumDownTile(stmt, size, cols);
    if (cols !== undefined && this.isRegister(src)) return this.sumDownColumns(stmt, size, cols);
    if (cols !== undefined || (block !== null && block % 32 !== 0)) return super.cumsum(stmt);
    const { writer } = this;
    const lanes = "0xffffffffu";
    // One warp each, side by side where no barrier stands between.
    const warp = this.sums++ % (this.threads / 32);
    writer.block(`if (warp == ${warp}) {`, () => {
      writer.line("float before = 0.0f;");
      this.fixedLoop("i", Math.ceil(size / 32), () => {
        if (block !== null && block < size) {
          writer.line(`if (i % ${block / 32} == 0) before = 0.0f;`);
        }
        const place = "i * 32 + lane";
        writer.line(`const int row = ${reverse ? `${size - 1} - (${place})` : place};`);
        const isWhole = size % 32 === 0;
        const inside = isWhole ? "" : reverse ? "row >= 0" : `row < ${size}`;
        const own = `${this.nameOf(src)}[row]`;
        writer.line(`float value = ${isWhole ? own : `${inside} ? ${own} : 0.0f`};`);
        this.fixedLoop("step", 5, () => {
          writer.line(`const float other = __shfl_up_sync(${lanes}, value, 1 << step);`);
          writer.line("if (lane >= 1 << step) value += other;");
        });
        writer.line("value += before;");
        if (exclusive) {
          writer.line(`const float other = __shfl_up_sync(${lanes}, value, 1);`);
          writer.line("const float sum = lane == 0 ? before : other;");
        }
        const write = `${this.nameOf(dst)}[row] = ${exclusive ? "sum" : "value"};`;
        writer.line(isWhole ? write : `if (${inside}) ${write}`);
        writer.line(`before = __shfl_sync(${lanes}, value, 31);`);
      });
    });
  }

  private sumDownColumns(stmt: CumSumStmt, rows: number, cols: number): void {
    const [dst, src] = [this.nameOf(stmt.dst), this.nameOf(stmt.src)];
    const parts = this.isInBf16(stmt.src) ? 1 : 2;
    const shape = [stmt.block ?? rows, parts, this.mayBeInfinite(stmt), ...waysOf(stmt)];
    this.use("bf16");
    const name = this.use("sum_down_columns");
    this.activeWarps(this.warpsOf(rows, cols), () => {
      this.writer.line(`${name}<${shape.join(", ")}>(${dst}, ${src});`);
    });
  }

  private sumDownTile(stmt: CumSumStmt, rows: number, cols: number): void {
    const warps = this.warpsOf(rows, cols);
    const shape = [stmt.block ?? rows, ...waysOf(stmt), warps.down, warps.across];
    this.use("bf16");
    const name = this.use("sum_down_tile");
    this.activeWarps(warps, () => {
      const [dst, src] = [this.nameOf(stmt.dst), this.nameOf(stmt.src)];
      this.writer.line(`${name}<${shape.join(", ")}>(${dst}, ${src});`);
    });
  }

  /** May a sum run over a log decay that is infinite, of a gate that keeps nothing? */
  private mayBeInfinite({ src, dst }: CumSumStmt): boolean {
    const maps = [...flatten(this.kernel.body)].filter((stmt) => stmt.kind === "map");
    const sources = maps.filter((map) => map.dst === src).map(({ expr }) => expr);
    const isBounded = (expr: Expr) =>
      expr.kind === "call" && expr.fn === "max" && expr.args.some(({ kind }) => kind === "const");
    if (sources.length > 0 && sources.every(isBounded)) return false;
    const seen = new Set<StorageId>();
    const isExponent = (id: StorageId): boolean => {
      seen.add(id);
      const isIn = (expr: Expr, belowExp: boolean): boolean => {
        if (expr.kind === "read") return belowExp && expr.storage === id;
        if (expr.kind !== "call") return false;
        return expr.args.some((arg) => isIn(arg, belowExp || expr.fn === "exp"));
      };
      return maps.some(
        (map) =>
          isIn(map.expr, false) ||
          (readsOf(map).includes(id) && !seen.has(map.dst) && isExponent(map.dst)),
      );
    };
    return isExponent(dst);
  }

  /** Does a register tile hold nothing but what came in bf16? */
  private isInBf16(id: StorageId): boolean {
    return [...flatten(this.kernel.body)].every((stmt) => {
      if (stmt.kind === "loop" || !writesOf(stmt).includes(id)) return true;
      if (stmt.kind === "copy") return this.storage(stmt.src.storage).dtype === "bf16";
      if (stmt.kind === "map") return this.isBf16(stmt.expr);
      return stmt.kind === "load" && this.param(stmt.view.param).dtype === "bf16";
    });
  }

  /** Is it one of numbers in bf16, as they are? */
  private isBf16(expr: Expr): boolean {
    if (expr.kind === "const") return hasEightBits(expr.value);
    if (expr.kind === "read") return expr.at === "tile" && this.isInBf16(expr.storage);
    const isChoice = expr.kind === "call" && (expr.fn === "max" || expr.fn === "min");
    return isChoice && expr.args.every((arg) => this.isBf16(arg));
  }

  protected override invert({ dst }: Invert): void {
    const { shape, pad } = this.storage(dst);
    const [size] = shape as [number];
    const name = this.use("invert_triangle");
    const barrier = this.role === null ? 0 : 1 + this.role;
    const numbers = [size, size + pad, this.threads, barrier];
    this.writer.line(`${name}<${numbers.join(", ")}>(${this.nameOf(dst)});`);
  }

  /** Of a vector every warp folds all of it, so that each thread has the result. */
  private reduceVector({ dst, src, fn }: ReduceStmt): void {
    const { writer, dialect } = this;
    const [size] = this.storage(src).shape as [number];
    const to = this.nameOf(dst);
    const start = dialect.float(fn === "sum" ? 0 : -Infinity);
    const fold = (other: string) =>
      `${to} = ${dialect.call(fn === "sum" ? "add" : "max", [to, other])};`;
    writer.line(`${to} = ${start};`);
    writer.block(`for (int row = lane; row < ${size}; row += 32) {`, () => {
      writer.line(fold(`${this.nameOf(src)}[row]`));
    });
    this.fixedLoop("step", 5, () => {
      writer.line(fold(`__shfl_xor_sync(0xffffffffu, ${to}, 1 << step)`));
    });
  }

  /** Of tiles what `spread-folds` left: nothing. */
  protected override reduce(stmt: ReduceStmt): void {
    if (this.storage(stmt.src).shape.length === 1) return this.reduceVector(stmt);
    throw new CompilerBug(`fragments: ${this.nameOf(stmt.dst)} is folded in one step`);
  }

  private fold({ fn, dst, src, axis }: Fold): void {
    const { writer } = this;
    const [rows, cols] = this.storage(src).shape as [number, number];
    const warps = this.warpsOf(rows, cols);
    const alongCols = axis === "col";
    const { shape, pad } = this.storage(dst);
    const isVector = shape.length === 1;
    const [part, parts] = alongCols
      ? [`warp / ${warps.down}`, warps.across]
      : [`warp % ${warps.down}`, warps.down];
    if (parts !== (shape[1] ?? 1)) throw new CompilerBug(`fragments: ${parts} parts are folded`);
    const to = (at: string) =>
      isVector
        ? `${this.nameOf(dst)}[${at}]`
        : `${this.nameOf(dst)}[(${at}) * ${parts + pad} + ${part}]`;
    const [outer, inner] = alongCols ? ["i", "j"] : ["j", "i"];
    const [held, folded] = alongCols
      ? [2 * warps.rowBlocks, 2 * warps.colBlocks]
      : [2 * warps.colBlocks, 2 * warps.rowBlocks];
    const place = alongCols
      ? this.rowText(warps, "(i / 2)", "i % 2")
      : `${this.colText(warps, "(j / 2)")} + j % 2`;
    // The lanes that hold one row differ in lane % 4, those that hold one column in lane / 4.
    const distances = alongCols ? [1, 2] : [4, 8, 16];
    const isFirst = alongCols ? "lane % 4 == 0" : "lane < 4";
    this.activeWarps(warps, () => {
      this.fixedLoop(outer, held, () => {
        writer.line(`float value = ${this.startOf(fn)};`);
        this.fixedLoop(inner, folded, () => {
          writer.line(`value = ${this.folded(fn, "value", `${this.nameOf(src)}[i][j]`)};`);
        });
        for (const distance of distances) {
          const other = `__shfl_xor_sync(0xffffffffu, value, ${distance})`;
          writer.line(`value = ${this.folded(fn, "value", other)};`);
        }
        writer.line(`if (${isFirst}) ${to(place)} = value;`);
      });
    });
  }

  private join(stmt: Join): void {
    const { fn, dst, src } = stmt;
    if (this.storage(dst).shape.length === 2) return this.joinParts(stmt);
    const { writer } = this;
    const { shape, pad } = this.storage(src);
    const [rows, parts] = shape as [number, number];
    this.eachShared(rows, "row", () => {
      const all = Array.from({ length: parts }, (_, n) => {
        return `${this.nameOf(src)}[row * ${parts + pad} + ${n}]`;
      });
      writer.line(
        `${this.nameOf(dst)}[row] = ${bare(all.reduce((a, b) => this.folded(fn, a, b)))};`,
      );
    });
  }

  private startOf(fn: "sum" | "max"): string {
    return this.dialect.float(fn === "sum" ? 0 : -Infinity);
  }

  private folded(fn: "sum" | "max", a: string, b: string): string {
    return this.dialect.call(fn === "sum" ? "add" : "max", [a, b]);
  }
}

/** Has it as many significant bits as bf16 holds? */
function hasEightBits(value: number): boolean {
  const bits = 8 - 1 - Math.floor(Math.log2(Math.abs(value)));
  return value === 0 || Number.isInteger(value * 2 ** bits);
}

/** Is it a product for `wgmma`? A warpgroup's columns are whole panels or lie in one, unless rows of the factor are their columns. */
function isByWarpgroups({ dst, transposeRhs }: Mma, { down, colBlocks }: Warps): boolean {
  const width = colBlocks * 8;
  const isWhole = transposeRhs || width % 64 === 0 || 64 % width === 0;
  return down === 4 && dst.rows % 64 === 0 && isWhole;
}

/** The tiles that `wgmma` reads. */
function wideFactorsOf({ body, threads, roles }: Kernel): ReadonlySet<StorageId> {
  const products = [...flatten(body)].filter((stmt) => stmt.kind === "mma");
  return new Set(
    products
      .filter((stmt) => {
        const own = stmt.role === undefined ? threads : roles![stmt.role]!;
        return isByWarpgroups(stmt, warpsOf(stmt.dst.rows, stmt.dst.cols, own / 32));
      })
      .flatMap(({ lhs, rhs }) => [lhs.storage, rhs.storage]),
  );
}

/** In which direction blocks 0, 2, 4, ... are summed up, and the others. */
function waysOf(stmt: CumSumStmt): readonly boolean[] {
  return [stmt.earlier ?? stmt, stmt].flatMap(({ reverse, exclusive }) => [reverse, exclusive]);
}
