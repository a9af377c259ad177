/** Tile statements for tensor cores: what threads do with register tiles, whose layout layout.ts tells. */
import { CompilerBug } from "../../compiler/support/never.ts";
import { flatten, isWhole, readsOf, writesOf } from "../../compiler/tile/accesses.ts";
import type {
  Copy,
  CumSumStmt,
  Expr,
  Fold,
  Invert,
  Join,
  Kernel,
  Load,
  Mma,
  MmaParts,
  ReduceStmt,
  Storage,
  StorageId,
  Stmt,
  Store,
  View,
  Window,
} from "../../compiler/tile/ir.ts";
import { mayBeAbsent } from "../../compiler/tile/ir.ts";
import { placesRead } from "../../compiler/tile/places-read.ts";
import { bare } from "../c-like/text.ts";
import { CopyWalker } from "./copies.ts";
import { type Warps, firstProducts, isWide, registersOfTiles, warpsOf } from "./layout.ts";
import type { WideProduct } from "./ops.ts";

export class FragmentWalker extends CopyWalker {
  /** Running sums of vectors so far. */
  private sums = 0;
  private readonly isShort = isShortOfRegisters(this.kernel);
  private readonly firstProducts = firstProducts(this.kernel);
  private readonly begins: ReadonlySet<Stmt> = new Set(this.firstProducts.values());

  /** Gives each thread at work its registers; all were launched with as many. */
  holdRegisters(registers: number, launched: number): void {
    this.writer.line(`${this.use("hold_registers")}<${registers}, ${launched}>();`);
  }

  private warpsOf(rows: number, cols: number): Warps {
    return warpsOf(rows, cols, this.threads / 32);
  }

  /** Before what ends a sum, where registers are short. */
  private beginAnew(): void {
    if (this.isShort) this.writer.line(`${this.use("begin_anew")}();`);
  }

  protected override statement(stmt: Stmt): void {
    const { writer } = this;
    this.awaitLate(stmt);
    if (this.firstProducts.has(stmt)) return;
    if (isMeeting(stmt)) this.showToProducts();
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
      case "load":
        return this.load(stmt);
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
    if (narrow === dst) this.noteWritten([narrow.storage]);
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
    if (isStore) this.noteWritten([tile]);
  }

  /** Two numbers in a word, or what they lose there. */
  private packed(dtype: Storage["dtype"], pair: readonly string[], rest?: true): string {
    const name = `pack_${rest ? "rest_" : ""}${dtype as "f16" | "bf16"}` as const;
    return `${this.use(name)}(${pair.join(", ")})`;
  }

  protected override store(stmt: Store): void {
    const { src, view } = stmt;
    if (this.isNarrow(src)) return this.storeTile(src, view);
    const [rows, cols] = this.storage(src).shape as [number, number?];
    if (cols === undefined || !this.hasPairs(view)) return super.store(stmt);
    const { writer } = this;
    const param = this.param(view.param);
    const isWide = param.dtype === "f32";
    if (!isWide && this.colsOf(param) % 8 === 0 && view.col.offset % 8 === 0) {
      if (this.warpsOf(rows, cols).colBlocks % 2 === 0) return this.storePieces(src, view);
    }
    const name = this.nameOf(src);
    const pair = [`${name}[i][2 * j]`, `${name}[i][2 * j + 1]`];
    this.eachPair(rows, cols, () => {
      const place = this.placeIn(view);
      const write = isWide
        ? `${this.use("store_pair")}(&${place}, ${pair.join(", ")});`
        : `*(unsigned*)&${place} = ${this.packed(param.dtype as Storage["dtype"], pair)};`;
      const inside = this.inBuffer(view, src, "row", "col");
      if (inside === null) writer.line(write);
      else writer.block(`if (${inside}) {`, () => writer.line(write));
    });
  }

  /** Of float32 numbers two at a time, as a thread holds them: one at a time fetches half of what it pays for. */
  private load(stmt: Load): void {
    const { dst, view } = stmt;
    const { writer } = this;
    const [rows, cols] = this.storage(dst).shape as [number, number?];
    const param = this.param(view.param);
    const isWide = cols !== undefined && this.isRegister(dst) && param.dtype === "f32";
    if (!isWide || !this.hasPairs(view)) return super.statement(stmt);
    const name = this.nameOf(dst);
    const isThere = mayBeAbsent(param) ? `${this.paramName(param.name)} != nullptr` : null;
    this.eachPair(rows, cols, () => {
      const tests = [isThere, this.inBuffer(view, dst, "row", "col")].filter((x) => x !== null);
      const read = `pair = *(const float2*)&${this.placeIn(view)};`;
      writer.line("float2 pair = make_float2(0.0f, 0.0f);");
      writer.line(tests.length === 0 ? read : `if (${tests.join(" && ")}) ${read}`);
      writer.line(`${name}[i][2 * j] = pair.x;`);
      writer.line(`${name}[i][2 * j + 1] = pair.y;`);
    });
  }

  /** Do two neighbouring columns of a view lie in a buffer as one number of twice the size does? */
  private hasPairs({ param, col }: View): boolean {
    return this.colsOf(this.param(param)) % 2 === 0 && col.offset % 2 === 0;
  }

  private placeIn(view: View): string {
    return `${this.paramName(view.param)}[${this.bufferIndex(view, "row", "col")}]`;
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
          this.beginAnew();
          this.withPlaces(row, col, () => {
            const write = `${this.use("store_words")}(&${this.placeIn(view)}, words);`;
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
    const isEven = this.colsOf(param) % 8 === 0 && view.col.offset % 8 === 0;
    const [width, type] = isEven ? [8, "uint4"] : [1, "unsigned short"];
    this.eachPiece(rows, cols, width, () => {
      const write = `*(${type}*)&${this.placeIn(view)} = *(const ${type}*)(${this.inTile(src, "row", "col")});`;
      const inside = this.inBuffer(view, src, "row", "col");
      if (inside === null) writer.line(write);
      else writer.block(`if (${inside}) {`, () => writer.line(write));
    });
  }

  private wholeTile(window: Window): void {
    const storage = this.storage(window.storage);
    if (!isWhole(window, storage)) {
      throw new CompilerBug(`fragments: a part of ${storage.name} cannot be a factor`);
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
    const isByGroups = isWide(this.kernel, stmt);
    const width = colBlocks * 8;
    if (isByGroups) this.use(`multiply_64x${width}_${number}` as WideProduct);
    const name = this.use(isByGroups ? "multiply_by_warpgroups" : "multiply_by_warps");
    const isFirst = this.begins.has(stmt);
    const grid = isByGroups ? [across, isFirst] : [down, across];
    const shape = [number, depth, transposeLhs, transposeRhs, ...grid];
    const [to, left, right] = [dst, lhs, rhs].map(({ storage }) => this.nameOf(storage));
    const turned = (text: string, isTurned: boolean) => (isTurned ? `${text}^T` : text);
    this.writer.line(
      `// ${to} ${isFirst ? "" : "+"}= ${turned(left!, transposeLhs)} @ ${turned(right!, transposeRhs)}`,
    );
    this.activeWarps(isByGroups ? warps : this.readingWarps(dst, warps), () => {
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

  /** Of a vector a lane sums up neighbours, and a warp these sums in five steps: what is 1, 2, 4 ... lanes before. */
  protected override cumsum(stmt: CumSumStmt): void {
    const { dst, src, reverse, exclusive, block, earlier } = stmt;
    const [size, cols] = this.storage(src).shape as [number, number?];
    if (cols !== undefined && this.isNarrow(src)) return this.sumDownTile(stmt, size, cols);
    if (cols !== undefined && this.isRegister(src)) return this.sumDownColumns(stmt, size, cols);
    const isAnew = block !== null && block < size;
    const each = Math.ceil(size / 32);
    const isOfLanes = !isAnew || (block % 32 === 0 && block % each === 0);
    if (cols !== undefined || earlier || !isOfLanes) return super.cumsum(stmt);
    const lanes = isAnew ? block / each : 32;
    const { writer } = this;
    const all = "0xffffffffu";
    const lane = lanes === 32 ? "lane" : `lane % ${lanes}`;
    // One warp each, side by side where no barrier stands between; from the last on, as short vectors are the first ones' work.
    const warps = this.threads / 32;
    const warp = warps - 1 - (this.sums++ % warps);
    const place = each === 1 ? "lane" : `lane * ${each} + i`;
    const row = `const int row = ${reverse ? `${size - 1} - (${place})` : place};`;
    const inside = reverse ? "row >= 0" : `row < ${size}`;
    const isWhole = size === each * 32;
    writer.block(`if (warp == ${warp}) {`, () => {
      writer.line(`float sums[${each}], value = 0.0f;`);
      this.fixedLoop("i", each, () => {
        writer.line(row);
        const held = `${this.nameOf(src)}[row]`;
        const own = this.term(stmt, isWhole ? held : `${inside} ? ${held} : 0.0f`);
        writer.line(`value += ${own};`);
        writer.line("sums[i] = value;");
      });
      this.fixedLoop("step", Math.log2(lanes), () => {
        writer.line(`const float other = __shfl_up_sync(${all}, value, 1 << step);`);
        writer.line(`if (${lane} >= 1 << step) value += other;`);
      });
      writer.line(`const float other = __shfl_up_sync(${all}, value, 1);`);
      writer.line(`const float before = ${lane} == 0 ? 0.0f : other;`);
      this.fixedLoop("i", each, () => {
        writer.line(row);
        const sum = exclusive ? "i == 0 ? before : before + sums[i - 1]" : "before + sums[i]";
        const write = `${this.nameOf(dst)}[row] = ${sum};`;
        writer.line(isWhole ? write : `if (${inside}) ${write}`);
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
        this.beginAnew();
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

/** Tiles that take so many of a thread's 255 registers leave few for what else it holds. */
const manyRegisters = 160;

/** Have threads few registers beside their tiles? Those of roles are dealt out by what these need. */
function isShortOfRegisters(kernel: Kernel): boolean {
  return kernel.roles === undefined && registersOfTiles(kernel) >= manyRegisters;
}

/** Do threads meet in it, or may they? */
function isMeeting({ kind }: Stmt): boolean {
  return kind === "barrier" || kind === "signal" || kind === "await" || kind === "loop";
}

/** Has it as many significant bits as bf16 holds? */
function hasEightBits(value: number): boolean {
  const bits = 8 - 1 - Math.floor(Math.log2(Math.abs(value)));
  return value === 0 || Number.isInteger(value * 2 ** bits);
}

/** In which direction blocks 0, 2, 4, ... are summed up, and the others. */
function waysOf(stmt: CumSumStmt): readonly boolean[] {
  return [stmt.earlier ?? stmt, stmt].flatMap(({ reverse, exclusive }) => [reverse, exclusive]);
}
