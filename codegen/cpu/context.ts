/**
 * Where things of a kernel are: storages in the scratch memory, this grid point's part of each buffer,
 * run-time integers, variables. Addresses are written once, where they are first known: at the entry of
 * the kernel, or at the start of a grid point.
 */
import type { Index, Kernel, Param, StorageId, View, Window } from "../../compiler/tile/ir.ts";
import { cutsParam, runtimeScalars, servesPacked } from "../../compiler/tile/ir.ts";
import type { Dtype } from "../../compiler/tensor/ir.ts";
import { CompilerBug } from "../../compiler/support/never.ts";
import { type StatementFunction, letterOf } from "./functions.ts";
import { Builder, type Int, type Llvm, type Value, lanes } from "./builder.ts";

/** A storage: `rows` rows (1 for a scalar) of `cols` floats, `stride` apart. */
export interface Place {
  readonly pointer: Value;
  readonly rank: number;
  readonly rows: number;
  readonly cols: number;
  readonly stride: number;
}

/** A grid point's part of a buffer; element (row, col) lies at row * rowStride + col. */
export interface Part {
  readonly pointer: Value;
  readonly dtype: Dtype;
  readonly rowStride: Int;
  readonly rows: Int;
  readonly cols: number;
  /** Elements from one chunk's part to the next, and tokens of a chunk; of what is stored per chunk. */
  readonly perChunk?: { readonly stride: Int; readonly tokens: number };
}

/** Byte offset of each storage in the scratch memory, and its size. */
export interface Layout {
  readonly offsets: ReadonlyMap<StorageId, number>;
  readonly sizeBytes: number;
}

/**
 * Vectors and tiles one behind the other; their sizes are multiples of 16 floats, so all are 64-byte
 * aligned. A vector lies as one row. Scalars are not in memory.
 */
export function layOut(kernel: Kernel): Layout {
  const offsets = new Map<StorageId, number>();
  let sizeBytes = 0;
  for (const { id, name, shape } of kernel.storages) {
    if (shape.length === 0) continue;
    if (shape.some((size) => size % lanes !== 0)) {
      throw new CompilerBug(`cpu: ${name} [${shape.join(", ")}] is not padded to ${lanes}`);
    }
    offsets.set(id, sizeBytes);
    sizeBytes += shape.reduce((product, size) => product * size, 4);
  }
  return { offsets, sizeBytes };
}

/** The run-time integers a kernel takes, in order. */
export function scalarsOf(kernel: Kernel): string[] {
  const heads = kernel.params.filter(({ per }) => per === "token" || per === "head");
  const own = heads.map((param) => param.heads).filter((name) => name !== "H");
  return [...runtimeScalars, ...new Set(own)];
}

export class KernelContext {
  readonly b: Builder;
  readonly layout: Layout;
  readonly scalars: readonly string[];
  readonly kernel: Kernel;
  private readonly variables = new Map<string, Int>();
  private places = new Map<StorageId, Place>();
  private readonly parts = new Map<string, Part>();
  private readonly runtimes = new Map<string, Value>();
  private readonly args: Readonly<Record<"buffers" | "scalars" | "scratch", Value>>;
  private readonly range: Readonly<Record<"begin" | "end", Value>>;
  private readonly atEntry: <T>(write: () => T) => T;
  private atPoint: <T>(write: () => T) => T = (write) => write();
  private sequence: { first: Int; tokens: Int; chunkOffset: Int } = {
    first: 0,
    tokens: 0,
    chunkOffset: 0,
  };
  private batch: Int = 0;
  private head: Int = 0;

  constructor(llvm: Llvm, kernel: Kernel) {
    this.kernel = kernel;
    this.layout = layOut(kernel);
    this.scalars = scalarsOf(kernel);
    this.b = new Builder(llvm, kernel.name);
    const [buffers, scalars, scratch, begin, end] = this.b.openFunction(kernel.name, [
      ["buffers", "buffers"],
      ["scalars", "ints"],
      ["scratch", "floats"],
      ["begin", "int"],
      ["end", "int"],
    ]) as [Value, Value, Value, Value, Value];
    this.args = { buffers, scalars, scratch };
    this.range = { begin, end };
    this.atEntry = this.b.leaveOpen("grid");
  }

  /** Writes `body` once for each grid point, and ends the kernel. */
  forEachPoint(body: () => void): void {
    const { b, kernel } = this;
    b.loop(this.range.begin, this.range.end, 1, "point", (point) => {
      let rest = point;
      for (const axis of [...kernel.grid].reverse()) {
        const extent = axis.extent === "T" ? this.runtime("T") : axis.extent;
        const steps = b.divide(b.add(extent, axis.step - 1), axis.step);
        this.setVariable(axis.name, b.multiply(b.modulo(rest, steps), axis.step, axis.name));
        rest = b.divide(rest, steps);
      }
      this.batch = b.divide(rest, this.runtime("H"), "b");
      this.head = b.modulo(rest, this.runtime("H"), "h");
      this.openSequence();
      this.insideSequence(() => {
        this.atPoint = b.leaveOpen("body");
        body();
      });
    });
    b.closeFunction();
  }

  /** Grid axes over tokens count those of all packed sequences: points behind this one's own do nothing. */
  private insideSequence(body: () => void): void {
    const { b, kernel } = this;
    const axis = kernel.grid.find(({ extent }) => extent === "T");
    if (axis === undefined || !servesPacked(kernel)) return body();
    const isInside = b.isBelow(this.variable(axis.name), this.tokens);
    b.choose(isInside, "inside", body, () => {});
  }

  /**
   * This point's sequence: a row of the batch, or of packed sequences what lies between two cuts. Without
   * a branch: `packed` is 0 or 1, and the first two cuts can always be read. What they say stays inside the tensors.
   */
  private openSequence(): void {
    const { b, kernel } = this;
    const T = this.runtime("T");
    this.sequence = { first: b.multiply(this.batch, T), tokens: T, chunkOffset: 0 };
    const cuts = kernel.params.findIndex(({ dtype }) => dtype === "i32");
    if (cuts < 0) return;
    const packed = this.runtime("packed");
    const array = this.atEntry(() => b.loadBytes(this.args.buffers, cuts, cutsParam.name));
    const at = b.multiply(this.batch, packed);
    const begin = b.clamp(b.loadNarrowInt(array, at), 0, T);
    const end = b.clamp(b.loadNarrowInt(array, b.add(at, 1)), begin, T);
    const dense = b.subtract(1, packed);
    this.sequence = {
      first: b.add(b.multiply(begin, packed), b.multiply(dense, this.sequence.first)),
      tokens: b.add(b.multiply(b.subtract(end, begin), packed), b.multiply(dense, T)),
      chunkOffset: at,
    };
  }

  /** How many tokens this point's sequence has. */
  get tokens(): Int {
    return this.sequence.tokens;
  }

  /** The length that the program calls T: of a packed sequence its own, else the whole one's. */
  get totalTokens(): Int {
    const { b } = this;
    const total = this.runtime("T_total");
    if (!servesPacked(this.kernel)) return total;
    const packed = this.runtime("packed");
    return b.add(total, b.multiply(packed, b.subtract(this.tokens, total)));
  }

  setVariable(name: string, value: Int): void {
    this.variables.set(name, value);
  }

  /** The value of a grid axis or loop variable. */
  variable(name: string): Int {
    return this.variables.get(name)!;
  }

  index({ base, offset }: Index): Int {
    return base === null ? offset : this.b.add(this.variable(base), offset);
  }

  /** A run-time integer: "T", "H_k". */
  runtime(name: string): Value {
    const known = this.runtimes.get(name);
    if (known) return known;
    const at = this.scalars.indexOf(name);
    const value = this.atEntry(() => this.b.loadInt(this.args.scalars, at, name));
    this.runtimes.set(name, value);
    return value;
  }

  place(id: StorageId): Place {
    const known = this.places.get(id);
    if (known) return known;
    const { b } = this;
    const { name, shape } = this.kernel.storages.find((storage) => storage.id === id)!;
    const rank = shape.length;
    const [rows, cols] = rank === 2 ? (shape as [number, number]) : [1, shape[0] ?? 1];
    const pointer = this.atEntry(() =>
      rank === 0
        ? b.variable(name)
        : b.at("float", this.args.scratch, this.layout.offsets.get(id)! / 4, name),
    );
    const place = { pointer, rank, rows, cols, stride: cols };
    this.places.set(id, place);
    return place;
  }

  /** Calls the function of a statement, which `write` writes. */
  callFunction({ name, storages }: StatementFunction, write: () => void): void {
    const outside = storages.map((id) => this.place(id));
    const args = outside.map(({ pointer }, i) => [letterOf(i), pointer] as const);
    this.b.callOwn(name, args, (params) => {
      const { places } = this;
      const inside = outside.map((place, i) => ({ ...place, pointer: params[i]! }));
      this.places = new Map(storages.map((id, i) => [id, inside[i]!]));
      write();
      this.places = places;
    });
  }

  /** The address of an element of a storage. */
  element(place: Place, row: Int, col: Int): Value {
    const { b } = this;
    return b.at("float", place.pointer, b.add(b.multiply(row, place.stride), col));
  }

  /** The address of the first element of a window. */
  corner(window: Window): Value {
    return this.element(this.place(window.storage), this.index(window.row), this.index(window.col));
  }

  /** This grid point's part of a view's buffer; of one stored per chunk, the chunk's. */
  partOf(view: View): Part {
    const part = this.part(view.param);
    if (part.perChunk === undefined) return part;
    const { b } = this;
    const { stride, tokens } = part.perChunk;
    const offset = b.multiply(b.divide(this.index(view.token!), tokens), stride);
    const type = part.dtype === "f32" ? "float" : "half";
    return { ...part, pointer: b.at(type, part.pointer, offset) };
  }

  private part(name: string): Part {
    const known = this.parts.get(name);
    if (known) return known;
    const number = this.kernel.params.findIndex((candidate) => candidate.name === name);
    const param = this.kernel.params[number]!;
    const type = param.dtype === "f32" ? "float" : "half";
    const whole = this.atEntry(() =>
      this.b.loadPointer(this.args.buffers, number, type, `${name}_buffer`),
    );
    const part = this.atPoint(() => this.placed(param, whole, type));
    this.parts.set(name, part);
    return part;
  }

  private placed(param: Param, whole: Value, type: "float" | "half"): Part {
    const { b } = this;
    const { per, shape } = param;
    const dtype = param.dtype as Part["dtype"];
    const rows = shape[0] === "T" ? this.tokens : ((shape[0] as number | undefined) ?? 1);
    const cols = (shape[1] as number | undefined) ?? 1;
    const at = (offset: Int) => b.at(type, whole, offset, `${param.name}_head`);
    switch (per) {
      case "token": {
        const heads = this.runtime(param.heads);
        const first = b.multiply(this.sequence.first, heads);
        const offset = b.multiply(b.add(first, this.headOf(param)), cols);
        return { pointer: at(offset), dtype, rowStride: b.multiply(heads, cols), rows, cols };
      }
      case "state": {
        const number = b.add(b.multiply(this.batch, this.runtime("H")), this.head);
        const offset = b.multiply(number, b.multiply(rows, cols));
        return { pointer: at(offset), dtype, rowStride: cols, rows, cols };
      }
      case "head": {
        const offset = b.multiply(this.headOf(param), b.multiply(rows, cols));
        return { pointer: at(offset), dtype, rowStride: cols, rows, cols };
      }
      case "shared":
        return { pointer: whole, dtype, rowStride: cols, rows, cols };
      case "chunk": {
        const tokens = param.chunk!;
        const size = b.multiply(rows, cols);
        const first = b.multiply(this.firstChunk(tokens), this.runtime("H"));
        const pointer = at(b.multiply(b.add(first, this.head), size));
        const perChunk = { stride: b.multiply(this.runtime("H"), size), tokens };
        return { pointer, dtype, rowStride: cols, rows, cols, perChunk };
      }
    }
  }

  /** The number of this sequence's first chunk: of packed ones first / chunk + b, else b chunks on. */
  private firstChunk(size: number): Int {
    const { b, sequence } = this;
    const count = b.divide(b.add(sequence.tokens, size - 1), size);
    const dense = b.multiply(this.batch, count);
    if (!servesPacked(this.kernel)) return dense;
    const packed = this.runtime("packed");
    const slot = b.add(b.divide(sequence.first, size), sequence.chunkOffset);
    return b.add(b.multiply(packed, slot), b.multiply(b.subtract(1, packed), dense));
  }

  /** Which of the buffer's own heads serves this one: groups of heads share. */
  private headOf(param: Param): Int {
    if (param.heads === "H") return this.head;
    const { b } = this;
    const group = b.divide(this.runtime("H"), this.runtime(param.heads));
    return b.divide(this.head, group);
  }

  /** How many of `rows` x `cols` elements from a view's corner on lie inside the buffer. */
  bounds(view: View, rows: number, cols: number): { readonly rows: Int; readonly cols: Int } {
    const { b } = this;
    const part = this.part(view.param);
    return {
      rows: b.clamp(b.subtract(part.rows, this.index(view.row)), 0, rows),
      cols: b.clamp(b.subtract(part.cols, this.index(view.col)), 0, cols),
    };
  }
}
