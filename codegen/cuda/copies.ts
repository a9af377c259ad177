/**
 * Copies from tensors to tiles in shared memory, and waits for them: by Hopper's copy engine, which tensor maps tell where
 * tiles lie, or by threads; to a place of its own for each turn under way (see arrivals.ts).
 */
import { flatten, readsOf } from "../../compiler/tile/accesses.ts";
import type {
  CopyAsync,
  Kernel,
  Loop,
  Param,
  Stmt,
  StorageId,
  Wait,
} from "../../compiler/tile/ir.ts";
import { mayBeAbsent, servesPacked } from "../../compiler/tile/ir.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { bare, group, mentions } from "../c-like/text.ts";
import { CLikeWalker } from "../c-like/walk.ts";
import type { Arrival, Arrivals, Waiting } from "./arrivals.ts";
import { arrivalOf, arrivalsIn, arrivalsOf, isByEngine } from "./arrivals.ts";
import { isWide, placeBytesOf } from "./layout.ts";
import type { Use } from "./ops.ts";

/** A param whose tiles of so many rows the copy engine copies, and the name of the map that tells it where they lie. */
export interface Mapped {
  readonly param: Param;
  readonly rows: number;
  readonly name: string;
}

export class CopyWalker extends CLikeWalker {
  protected readonly use: Use;
  private readonly arrivals: Arrivals;
  private readonly wideFactors: ReadonlySet<StorageId>;
  private readonly copiedByThreads: readonly StorageId[];
  /** Is there a tile that `wgmma` reads and threads wrote since they met? */
  private isUnshown = false;
  readonly maps: readonly Mapped[];
  /** Of lists of statements in loops: which place this turn's tiles arrive at, and whether it was an even time. */
  private readonly turnNames = new Map<
    Waiting,
    { readonly stage: string; readonly parity: string }
  >();
  private readonly mapNames = new Map<string, { readonly head: string; readonly chunk: string }>();
  /** What of a turn nothing has read yet, and nobody waited for. */
  private awaited: Arrival | null = null;
  /** The role whose statements are being written, and how many threads execute them. */
  protected role: number | null = null;
  protected threads: number;

  constructor(kernel: Kernel, dialect: Dialect, use: Use) {
    super(kernel, dialect);
    this.use = use;
    this.threads = kernel.threads;
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
    return `${this.placesNameOf(id)} + ${number} * ${size}`;
  }

  /** The statements of a role, as its threads execute them. */
  inRole(role: number, body: () => void): void {
    [this.role, this.threads] = [role, this.kernel.roles![role]!];
    body();
    [this.role, this.threads] = [null, this.kernel.threads];
  }

  /** A barrier of the threads at work. */
  protected meeting(): string {
    return this.role === null
      ? this.dialect.barrier
      : `${this.use("meet_at")}<${1 + this.role}, ${this.threads}>();`;
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
  protected eachPiece(rows: number, cols: number, width: number, body: () => void): void {
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

  /** Address of an element of a 16-bit tile, as a pointer to bytes. */
  protected inTile(id: StorageId, row: string, col: string): string {
    const { shape } = this.storage(id);
    return `${this.nameOf(id)} + ${this.use("place_in_tile")}(${shape[0]}, ${row}, ${col})`;
  }

  protected isNarrow(id: StorageId): boolean {
    return this.storage(id).memory === "shared" && this.storage(id).dtype !== "f32";
  }

  /** What threads wrote to tiles `wgmma` reads past the usual way, to be shown before they meet. */
  protected noteWritten(tiles: readonly StorageId[]): void {
    this.isUnshown ||= tiles.some((id) => this.wideFactors.has(id));
  }

  /** Once for all tiles since threads met. */
  protected showToProducts(): void {
    if (this.isUnshown) this.writer.line(`${this.use("show_to_products")}();`);
    this.isUnshown = false;
  }

  /** Copies in a row stand under one condition; what a list of statements wrote is shown in it. */
  override body(stmts: readonly Stmt[], above: string | null = null): void {
    let note = above;
    for (let at = 0; at < stmts.length;) {
      const copies = copiesAt(stmts, at);
      if (copies.length > 1) note = this.copyTogether(copies, note);
      else {
        note = this.noted(stmts[at]!, note);
        this.statement(stmts[at]!);
      }
      at += Math.max(copies.length, 1);
    }
    this.showToProducts();
  }

  /** Tiles first, then vectors, those of one size by the same threads; gives the source line said last. */
  private copyTogether(copies: readonly CopyAsync[], above: string | null): string | null {
    const { writer } = this;
    const isVector = ({ dst }: CopyAsync) => this.storage(dst).shape.length === 1;
    const vectors = copies.filter(isVector);
    let note = above;
    const all = () => {
      this.nameLater(copies[0]!);
      for (const tile of copies.filter((stmt) => !isVector(stmt))) {
        note = this.noted(tile, note);
        this.copyTo(tile, this.placeFor(tile));
      }
      for (const size of new Set(vectors.map(({ dst }) => this.storage(dst).shape[0]!))) {
        this.eachShared(size, "row", () => {
          for (const vector of vectors) {
            if (this.storage(vector.dst).shape[0] !== size) continue;
            note = this.noted(vector, note);
            this.copyWord(vector, this.placeFor(vector));
          }
        });
      }
    };
    const { ahead } = copies[0]!;
    if (ahead === 0) all();
    else writer.block(`if (${this.hasTurn(ahead)}) {`, all);
    if (copies.at(-1)!.isLast) this.closeCopies();
    return note;
  }

  /** To a place of its own for each turn: this one's, or of a turn behind it. */
  protected override copyAsync(stmt: CopyAsync): void {
    this.nameLater(stmt);
    this.copyTo(stmt, this.placeFor(stmt));
  }

  /** Where copies for turns behind this one go. */
  private nameLater(stmt: CopyAsync): void {
    if (stmt.ahead === 0) return;
    const list = this.listOf(stmt)!;
    const { stage } = this.turnNames.get(list)!;
    this.writer.line(`const unsigned later = (${stage} + ${stmt.ahead}) % ${list.places};`);
  }

  private placeFor(stmt: CopyAsync): string {
    const { dst, ahead, turns } = stmt;
    if (ahead > 0) return this.placeText(dst, "later");
    // The first turn's place has no name in front of the loop.
    const isNamed = turns === "all" || (this.storage(dst).places ?? 1) === 1;
    return isNamed
      ? this.nameOf(dst)
      : this.placeText(dst, this.turnNames.get(this.listOf(stmt)!)!.stage);
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
  private copyByThreads(stmt: CopyAsync, name: string): void {
    const { writer } = this;
    const { dst, view } = stmt;
    const [rows, cols] = this.storage(dst).shape as [number, number?];
    if (cols === undefined) {
      return this.eachShared(rows, "row", () => this.copyWord(stmt, name));
    }
    const inTile = `${name} + ${this.use("place_in_tile")}(${rows}, row, col)`;
    const param = this.param(view.param);
    const width = this.colsOf(param);
    const buffer = this.paramName(param.name);
    // Blocks of columns begin on whole pieces.
    const isEven = width % 8 === 0 && view.col.offset % 8 === 0;
    if (!isEven) {
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
  private copyWord({ dst, view }: CopyAsync, name: string): void {
    const from = `${this.paramName(view.param)} + ${this.bufferIndex(view, "row", null)}`;
    const own = this.inBuffer(view, dst, "row", null) ?? "true";
    const isThere = `${this.paramName(view.param)} != nullptr`;
    const inside = mayBeAbsent(this.param(view.param)) ? `${own} && ${isThere}` : own;
    this.writer.line(`${this.use("copy_word_async")}(${name} + row, ${from}, ${inside});`);
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
    this.noteWritten(this.copiedByThreads);
    this.showToProducts();
    writer.line(this.dialect.barrier);
  }

  private waitForTiles(list: Waiting, arrival: Arrival): void {
    const { stage, parity } = this.turnNames.get(list) ?? { stage: "", parity: "0" };
    const place = this.arrivalText(arrival, stage);
    this.writer.line(`${this.use("wait_for_tiles")}(${place}, ${parity});`);
  }

  /** Before a role's first statement that reads what this turn copies; without an engine it is there since the last wait. */
  protected awaitLate(stmt: Stmt): void {
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
}

/** The copies from a place of a list on that go to the same turn's places. */
function copiesAt(stmts: readonly Stmt[], at: number): readonly CopyAsync[] {
  const copies: CopyAsync[] = [];
  for (const stmt of stmts.slice(at)) {
    if (stmt.kind !== "copy-async") break;
    const { ahead, turns } = copies[0] ?? stmt;
    if (stmt.ahead !== ahead || stmt.turns !== turns) break;
    copies.push(stmt);
    if (stmt.isLast) break;
  }
  return copies;
}

/** The tiles that `wgmma` reads. */
function wideFactorsOf(kernel: Kernel): ReadonlySet<StorageId> {
  const products = [...flatten(kernel.body)].filter((stmt) => stmt.kind === "mma");
  const wide = products.filter((product) => isWide(kernel, product));
  return new Set(wide.flatMap(({ lhs, rhs }) => [lhs.storage, rhs.storage]));
}
