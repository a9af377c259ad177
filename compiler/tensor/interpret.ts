/**
 * What a tensor program means: plain loops in float64, one sequence, one head. This file defines the
 * language; every target is measured against it. Scans run token by token, chunk loops chunk by chunk.
 */
import { CompilerBug, assertNever } from "../support/never.ts";
import { functionOf } from "./functions.ts";
import {
  type Chunks,
  type Delta,
  type Dim,
  type Op,
  type Program,
  type Recurrence,
  type Scan,
  type ScanState,
  type TensorType,
  type ValueId,
  chunkCountDim,
  chunkDim,
  pieceOf,
  tokenDim,
} from "./ir.ts";
import { type NdArray, elementsOf, ndArray } from "./nd-array.ts";
import { collectTypes, decayAt, part, startsPiece, withColumns } from "./interpret-parts.ts";
import {
  type Rounders,
  type Rounding,
  factorsOf,
  roundedArray,
  roundersOf,
  rounds,
} from "./rounding.ts";

export interface InterpretSizes {
  /** Tokens here. */
  readonly T: number;
  /** Tokens of the whole sequence, and the place of the first one here in it. */
  readonly T_total?: number;
  readonly token_offset?: number;
  /** Tokens of a chunk, for programs with chunk loops. */
  readonly chunk?: number;
}

/**
 * Outputs by label. Inputs by label: token tensors [T, ...], states [K, V], the rest as declared. With `rounding`
 * what narrower arithmetic makes of them, else the meaning.
 */
export function interpretTensor(
  program: Program,
  inputs: ReadonlyMap<string, NdArray>,
  sizes: InterpretSizes,
  rounding: Rounding | null = null,
): Map<string, NdArray> {
  const interpreter = new Interpreter(program, inputs, sizes, rounding);
  for (const op of program.ops) interpreter.run(op);
  return new Map(program.outputs.map((out) => [out.label, interpreter.get(out.value)]));
}

interface LoopResults {
  readonly yields: readonly NdArray[];
  readonly carries: readonly NdArray[];
  readonly checkpoints: ReadonlyMap<ValueId, NdArray>;
}

class Interpreter {
  private readonly values = new Map<ValueId, NdArray>();
  private readonly results = new Map<ValueId, LoopResults>();
  /** The rows that `rows` reads: first token and count; a single token drops the axis. */
  private window = { first: 0, count: 0, single: false };
  private readonly program: Program;
  private readonly inputs: ReadonlyMap<string, NdArray>;
  private readonly sizes: InterpretSizes;
  private readonly rounders: Rounders | null;

  constructor(
    program: Program,
    inputs: ReadonlyMap<string, NdArray>,
    sizes: InterpretSizes,
    rounding: Rounding | null,
  ) {
    this.program = program;
    this.inputs = inputs;
    this.sizes = sizes;
    this.rounders = rounding && roundersOf(rounding);
  }

  get(id: ValueId): NdArray {
    const value = this.values.get(id);
    if (!value) throw new CompilerBug(`interpret: %${id} has no value`);
    return value;
  }

  run(op: Op): void {
    if (this.rounders === null || !rounds(op)) {
      this.values.set(op.id, this.evaluate(op));
      return;
    }
    const { result, factor } = this.rounders;
    const factors = factorsOf(op).map((id) => [id, this.get(id)] as const);
    for (const [id, value] of factors) this.values.set(id, roundedArray(value, factor));
    const found = roundedArray(this.evaluate(op), result);
    for (const [id, value] of factors) this.values.set(id, value);
    this.values.set(op.id, found);
  }

  private size(dim: Dim): number {
    if (typeof dim === "number") return dim;
    if (dim === tokenDim) return this.sizes.T;
    if (dim === chunkDim) return this.window.count;
    if (dim === chunkCountDim) return Math.ceil(this.sizes.T / this.chunk);
    const piece = pieceOf(dim);
    if (piece !== null) return Math.ceil(this.sizes.T / piece);
    const size = this.program.dims.get(dim);
    if (typeof size !== "number") throw new CompilerBug(`interpret: ${dim} has no size`);
    return size;
  }

  /** Tokens of a chunk: what is asked for, or less where a loop cannot take as many or has pieces. */
  private get chunk(): number {
    const { ops } = this.program;
    const longest = ops.flatMap((op) =>
      op.kind === "chunks" && op.longest !== null ? [op.longest] : [],
    );
    const pieces = ops.flatMap((op) => pieceOf(op.type.shape[0]) ?? []);
    let chunk = Math.min(this.sizes.chunk ?? 64, ...longest, ...pieces);
    while (pieces.some((piece) => piece % chunk !== 0)) chunk--;
    return chunk;
  }

  private shape(type: TensorType): number[] {
    return type.shape.map((dim) => this.size(dim));
  }

  private fill(type: TensorType, f: (row: number, col: number) => number): NdArray {
    const shape = this.shape(type);
    const out = ndArray(shape);
    const cols = shape[1] ?? 1;
    const rows = out.data.length / cols;
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) out.data[row * cols + col] = f(row, col);
    }
    return out;
  }

  private evaluate(op: Op): NdArray {
    switch (op.kind) {
      case "input": {
        const value = this.inputs.get(op.label);
        if (!value) throw new CompilerBug(`interpret: no input ${op.label}`);
        if (value.data.length !== elementsOf(this.shape(op.type))) {
          throw new CompilerBug(`interpret: input ${op.label} has shape [${value.shape}]`);
        }
        return value;
      }
      case "const":
        return this.fill(op.type, () => op.value);
      case "dim-size": {
        const whole = this.sizes.T_total ?? this.sizes.T;
        const size = op.dim === tokenDim ? whole : this.size(op.dim);
        return ndArray([], Float64Array.of(size));
      }
      case "token-index":
        return this.fill(op.type, (row) => row + (this.sizes.token_offset ?? 0));
      case "iota":
        return this.fill(op.type, (row) => row);
      case "map":
        return this.map(op);
      case "reduce":
        return this.reduce(op);
      case "rotate-half": {
        const arg = this.get(op.arg);
        const width = arg.shape.at(-1)!;
        const half = width / 2;
        const out = ndArray(arg.shape);
        for (let i = 0; i < out.data.length; i++) {
          const col = i % width;
          out.data[i] = col < half ? -arg.data[i + half]! : arg.data[i - half]!;
        }
        return out;
      }
      case "matmul":
        return this.matmul(this.get(op.lhs), this.get(op.rhs), this.shape(op.type));
      case "outer": {
        const [a, b] = [this.get(op.lhs).data, this.get(op.rhs).data];
        const out = ndArray(this.shape(op.type));
        const [rows, cols, to] = [a.length, b.length, out.data];
        for (let i = 0; i < rows; i++) {
          const x = a[i]!;
          for (let j = 0; j < cols; j++) to[i * cols + j] = x * b[j]!;
        }
        return out;
      }
      case "transpose": {
        const arg = this.get(op.arg);
        const [rows, cols] = arg.shape as [number, number];
        const [from, to] = [arg.data, new Float64Array(rows * cols)];
        for (let row = 0; row < rows; row++) {
          for (let col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col]!;
        }
        return ndArray([cols, rows], to);
      }
      case "cumsum": {
        const arg = this.get(op.arg);
        const width = elementsOf(arg.shape.slice(1));
        const rows = arg.shape[0]!;
        const block = op.block ?? rows;
        const out = ndArray(arg.shape);
        const place = (row: number, col: number) => row * width + col;
        for (let col = 0; col < width; col++) {
          for (let first = 0; first < rows; first += block) {
            const isEarlier = (first / block) % 2 === 0;
            const { reverse, exclusive } = (isEarlier ? op.earlier : undefined) ?? op;
            const last = Math.min(first + block, rows) - 1;
            let sum = 0;
            for (let step = 0; step <= last - first; step++) {
              const at = place(reverse ? last - step : first + step, col);
              if (exclusive) out.data[at] = sum;
              sum += arg.data[at]!;
              if (!exclusive) out.data[at] = sum;
            }
          }
        }
        return out;
      }
      case "causal":
        return this.causal(op);
      case "block-mask": {
        const block = (i: number) => Math.floor(i / op.block);
        return this.fill(op.type, (row, col) => {
          if (op.block === 0) return row === col ? 1 : 0;
          const [late, early] = op.reverse ? [col, row] : [row, col];
          if (op.within) {
            const isBefore = op.within.strict ? early < late : early <= late;
            return block(early) === block(late) && isBefore ? 1 : 0;
          }
          return block(early) % 2 === 0 && block(late) === block(early) + 1 ? 1 : 0;
        });
      }
      case "solve":
        return this.solve(op);
      case "invert":
        return this.invert(op);
      case "scan":
        return op.causal ? this.scan(op, op).out : this.readWhole(op);
      case "delta":
        return this.scan(op, null).values[op.index]!;
      case "scan-state":
        return op.every === null ? this.scan(op, null).state : this.scan(op, null).starts;
      case "recurrence":
      case "chunks":
        return this.loop(op);
      case "result": {
        const owner = this.results.get(op.of)!;
        if (op.part === "checkpoint") return owner.checkpoints.get(op.id)!;
        return (op.part === "yield" ? owner.yields : owner.carries)[op.index]!;
      }
      case "rows": {
        const { first, count, single } = this.window;
        const arg = this.get(op.arg);
        const width = elementsOf(arg.shape.slice(1));
        const stacked = this.types.get(op.arg)!.shape[0];
        const each = stacked === chunkCountDim ? this.chunk : pieceOf(stacked);
        if (each !== null) {
          const at = Math.floor(first / each) * width;
          return ndArray(arg.shape.slice(1), arg.data.subarray(at, at + width));
        }
        const data = arg.data.subarray(first * width, (first + count) * width);
        const rows = ndArray([...(single ? [] : [count]), ...arg.shape.slice(1)], data);
        // The last chunk's square is smaller than those before it.
        return this.types.get(op.arg)!.shape[1] === chunkDim ? withColumns(rows, [count]) : rows;
      }
      default:
        return assertNever(op);
    }
  }

  private map(op: Op & { kind: "map" }): NdArray {
    const out = ndArray(this.shape(op.type));
    const [rows, cols] = [out.shape[0] ?? 1, out.shape[1] ?? 1];
    const f = functionOf(op.fn);
    const read = op.args.map((id) => this.get(id).data);
    // How far each operand moves a row and a column on: 0 along an axis it does not have.
    const steps = op.args.map((id) => this.steps(id, op.type));
    const [a, b, c] = [read[0]!, read[1] ?? read[0]!, read[2] ?? read[0]!];
    const [sa, sb, sc] = [steps[0]!, steps[1] ?? steps[0]!, steps[2] ?? steps[0]!];
    const to = out.data;
    for (let i = 0; i < rows; i++) {
      const [at, ra, rb, rc] = [i * cols, i * sa.row, i * sb.row, i * sc.row];
      // Most of all work is sums and products of states: calls would take half of its time.
      if (op.fn === "add") {
        for (let j = 0; j < cols; j++) to[at + j] = a[ra + j * sa.col]! + b[rb + j * sb.col]!;
      } else if (op.fn === "mul") {
        for (let j = 0; j < cols; j++) to[at + j] = a[ra + j * sa.col]! * b[rb + j * sb.col]!;
      } else {
        for (let j = 0; j < cols; j++) {
          to[at + j] = f(a[ra + j * sa.col]!, b[rb + j * sb.col]!, c[rc + j * sc.col]!);
        }
      }
    }
    return out;
  }

  private steps(id: ValueId, whole: TensorType): { row: number; col: number } {
    const arg = this.get(id);
    const type = this.types.get(id)!;
    if (type.shape.length === whole.shape.length) {
      return whole.shape.length === 2 ? { row: arg.shape[1]!, col: 1 } : { row: 1, col: 0 };
    }
    if (type.shape.length === 0) return { row: 0, col: 0 };
    return type.shape[0] === whole.shape[0] ? { row: 1, col: 0 } : { row: 0, col: 1 };
  }

  /** Types of all values by id, to broadcast by dim names. */
  private get types(): ReadonlyMap<ValueId, TensorType> {
    this.typed ??= collectTypes(this.program.ops);
    return this.typed;
  }
  private typed: Map<ValueId, TensorType> | null = null;

  private reduce(op: Op & { kind: "reduce" }): NdArray {
    const arg = this.get(op.arg);
    const out = ndArray(this.shape(op.type));
    const inner = elementsOf(arg.shape.slice(op.axis + 1));
    const length = arg.shape[op.axis]!;
    out.data.fill(op.fn === "sum" ? 0 : -Infinity);
    for (let i = 0; i < arg.data.length; i++) {
      const at = Math.floor(i / (inner * length)) * inner + (i % inner);
      out.data[at] =
        op.fn === "sum" ? out.data[at]! + arg.data[i]! : Math.max(out.data[at]!, arg.data[i]!);
    }
    return out;
  }

  private matmul(a: NdArray, b: NdArray, shape: number[]): NdArray {
    const depth = a.shape.at(-1)!;
    const cols = b.shape.length === 2 ? b.shape[1]! : 1;
    const rows = a.shape.length === 2 ? a.shape[0]! : 1;
    const out = ndArray(shape);
    const [left, right, sums] = [a.data, b.data, out.data];
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < depth; k++) {
        const x = left[i * depth + k]!;
        for (let j = 0; j < cols; j++) sums[i * cols + j]! += x * right[k * cols + j]!;
      }
    }
    return out;
  }

  private causal(op: Op & { kind: "causal" }): NdArray {
    const length = this.size(op.type.shape[0]!);
    const log = op.logDecay === null ? null : this.get(op.logDecay);
    // Time runs along the steps; in reverse they count from the last token.
    const token = (step: number) => (op.reverse ? length - 1 - step : step);
    const at = (step: number) =>
      log === null ? 0 : log.data[log.shape.length === 0 ? 0 : token(step)]!;
    const out = ndArray([length, length]);
    for (let j = 0; j < length; j++) {
      let sum = 0;
      for (let i = op.strict ? j + 1 : j; i < length; i++) {
        const place = token(i) * length + token(j);
        out.data[place] = Math.exp(sum + (!op.strict && i > j ? at(i) : 0));
        if (op.strict || i > j) sum += at(i);
      }
    }
    return out;
  }

  private solve(op: Op & { kind: "solve" }): NdArray {
    const [matrix, rhs] = [this.get(op.matrix).data, this.get(op.rhs)];
    const [rows, cols] = rhs.shape as [number, number];
    const out = ndArray(rhs.shape, rhs.data.slice());
    for (let step = 0; step < rows; step++) {
      const i = op.upper ? rows - 1 - step : step;
      for (let before = 0; before < step; before++) {
        const j = op.upper ? rows - 1 - before : before;
        const factor = matrix[i * rows + j]!;
        for (let c = 0; c < cols; c++) out.data[i * cols + c]! += factor * out.data[j * cols + c]!;
      }
    }
    return out;
  }

  private invert(op: Op & { kind: "invert" }): NdArray {
    const { data, shape } = this.get(op.arg);
    const [size] = shape as [number, number];
    const out = ndArray(shape, new Float64Array(size * size));
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < i; j++) {
        let sum = data[i * size + j]!;
        for (let k = j + 1; k < i; k++) sum += data[i * size + k]! * out.data[k * size + j]!;
        out.data[i * size + j] = sum;
      }
    }
    return out;
  }

  /**
   * S_t = D_t S_{t-1} + sum of k_t w_t^T; with a reader also o_t = q_t S. `values`: the w of each write,
   * which for a delta depend on the state.
   */
  private scan(
    op: Scan | ScanState | Delta,
    reader: Scan | null,
  ): { state: NdArray; starts: NdArray; out: NdArray; values: NdArray[] } {
    const keys = op.writes.map(({ k }) => this.get(k).data);
    const values = op.writes.map(({ v }) => this.get(v));
    const q = reader ? this.get(reader.q).data : null;
    const log = op.logDecay === null ? null : this.get(op.logDecay);
    const [tokens, K] = this.get(op.writes[0]!.k).shape as [number, number];
    const V = values[0]!.shape[1]!;
    const S = op.initial === null ? new Float64Array(K * V) : this.get(op.initial).data.slice();
    const out = ndArray(reader ? this.shape(reader.type) : [0]);
    const every = op.kind === "scan-state" ? op.every : null;
    const starts = ndArray([every === null ? 0 : Math.ceil(tokens / every), K, V]);
    const addProduct = (to: Float64Array, query: Float64Array, t: number) => {
      for (let x = 0; x < K; x++) {
        const factor = query[t * K + x]!;
        for (let y = 0; y < V; y++) to[t * V + y]! += factor * S[x * V + y]!;
      }
    };
    const written =
      op.kind === "delta" ? values.map(({ shape, data }) => ndArray(shape, data.slice())) : values;
    const correct = (t: number) => {
      if (op.kind !== "delta") return;
      op.writes.forEach(({ erase }, m) => {
        if (erase !== null) addProduct(written[m]!.data, this.get(erase).data, t);
        for (const { to, from, scale } of op.couplings) {
          if (to !== m) continue;
          const factor = this.get(scale).data[t]!;
          for (let y = 0; y < V; y++) {
            written[m]!.data[t * V + y]! += factor * written[from]!.data[t * V + y]!;
          }
        }
      });
    };
    for (let step = 0; step < tokens; step++) {
      const t = op.reverse ? tokens - 1 - step : step;
      if (every !== null && startsPiece({ first: t, count: 1 }, tokens, every, op.reverse)) {
        starts.data.set(S, Math.floor(t / every) * K * V);
      }
      if (q !== null && reader?.read === "before") addProduct(out.data, q, t);
      correct(t);
      for (let x = 0; x < K; x++) {
        const shared = log && op.axis !== "value" ? Math.exp(decayAt(log, op, t, x, 0)) : 1;
        for (let y = 0; y < V; y++) {
          const decay = log && op.axis === "value" ? Math.exp(decayAt(log, op, t, x, y)) : shared;
          S[x * V + y]! *= decay;
        }
        for (let m = 0; m < keys.length; m++) {
          const [key, { data }] = [keys[m]![t * K + x]!, written[m]!];
          for (let y = 0; y < V; y++) S[x * V + y]! += key * data[t * V + y]!;
        }
      }
      if (q !== null && reader?.read === "after") addProduct(out.data, q, t);
    }
    return { state: ndArray([K, V], S), starts, out, values: written };
  }

  private readWhole(op: Scan): NdArray {
    return this.matmul(this.get(op.q), this.scan(op, null).state, this.shape(op.type));
  }

  private loop(op: Recurrence | Chunks): NdArray {
    const { T } = this.sizes;
    const single = op.kind === "recurrence";
    const step = single ? 1 : this.chunk;
    const starts = Array.from({ length: Math.ceil(T / step) }, (_, i) => i * step);
    if (op.reverse) starts.reverse();
    const piece = (op.kind === "chunks" && op.piece) || null;
    const first = (n: number) =>
      op.region.params.map((param, i) => {
        const shape = this.shape(param.type);
        if (op.inits[i] === null) return ndArray(shape);
        return piece === null ? this.get(op.inits[i]!) : part(this.get(op.inits[i]!), n);
      });
    let states = first(0);
    const carries = op.region.params.map((param) =>
      ndArray([...(piece === null ? [] : [Math.ceil(T / piece)]), ...this.shape(param.type)]),
    );
    const checkpoints = new Map(
      this.program.ops
        .filter((other) => other.kind === "result")
        .filter((other) => other.of === op.id && other.part === "checkpoint")
        .map((result) => [result, ndArray(this.shape(result.type))]),
    );
    const yields: NdArray[] = op.yields.map((id) => {
      const { shape } = this.types.get(id)!;
      const perToken = !single && shape[0] === chunkDim;
      const count = single || perToken ? T : starts.length;
      const widths = shape.slice(perToken ? 1 : 0);
      const isSquare = perToken && widths[0] === chunkDim;
      return ndArray([count, ...(isSquare ? [this.chunk] : widths.map((dim) => this.size(dim)))]);
    });
    for (const at of starts) {
      this.window = { first: at, count: Math.min(step, T - at), single };
      const begins = (length: number) => startsPiece(this.window, T, length, op.reverse);
      if (piece !== null && begins(piece)) states = first(Math.floor(at / piece));
      for (const [{ index, type }, all] of checkpoints) {
        const length = pieceOf(type.shape[0])!;
        if (begins(length)) part(all, Math.floor(at / length)).data.set(states[index]!.data);
      }
      op.region.params.forEach((param, i) => this.values.set(param.id, states[i]!));
      for (const inner of op.region.ops) this.run(inner);
      states = op.carries.map((id) => this.get(id));
      op.yields.forEach((id, i) => {
        const { shape, data } = yields[i]!;
        const perChunk = !single && this.types.get(id)!.shape[0] !== chunkDim;
        const value = this.get(id);
        const all = perChunk || single ? value : withColumns(value, shape.slice(1));
        data.set(all.data, (perChunk ? at / step : at) * elementsOf(shape.slice(1)));
      });
      if (piece !== null) {
        carries.forEach((all, i) => part(all, Math.floor(at / piece)).data.set(states[i]!.data));
      }
    }
    this.results.set(op.id, {
      yields,
      carries: piece === null ? states : carries,
      checkpoints: new Map([...checkpoints].map(([{ id }, all]) => [id, all])),
    });
    return ndArray([]);
  }
}
