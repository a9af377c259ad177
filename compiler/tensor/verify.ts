/**
 * What every tensor program satisfies; a failure is a bug of the pass that made it. Types are worked
 * out again with `resultType`, and what that takes on trust (shapes of scans, results of loops,
 * numbers of operands, scopes) is checked here.
 */
import { CompilerBug } from "../support/never.ts";
import {
  type Causal,
  type Chunks,
  type Delta,
  type Dim,
  type Input,
  type MapFn,
  type Op,
  type Program,
  type Recurrence,
  type RegionKind,
  type Result,
  type Scan,
  type ScanState,
  type TensorType,
  type ValueId,
  binaryFns,
  chunkCountDim,
  pieceDim,
  pieceOf,
  chunkDim,
  operands,
  tokenDim,
  unaryFns,
} from "./ir.ts";
import { printTensor } from "./print.ts";
import { resultType, sameShape } from "./types.ts";

/** Throws CompilerBug naming `after`, the pass that ran last, and showing the program. */
export function verifyTensor(program: Program, after: string): void {
  try {
    new Checker(program).check();
  } catch (error) {
    if (!(error instanceof Problem) && !(error instanceof CompilerBug)) throw error;
    const message = `${after}: ${program.name}: ${error.message}`;
    throw new CompilerBug(message, printTensor(program));
  }
}

class Problem extends Error {}

function fail(why: string): never {
  throw new Problem(why);
}

type Loop = Recurrence | Chunks;

/** The types of a loop's results, noted when its region closes. */
interface LoopTypes {
  readonly yields: readonly TensorType[];
  readonly carries: readonly TensorType[];
  readonly states: readonly TensorType[];
}

class Checker {
  /** Values in scope. */
  private readonly types = new Map<ValueId, TensorType>();
  /** Every id so far; those of closed regions are taken but no longer in scope. */
  private readonly taken = new Set<ValueId>();
  private readonly loops = new Map<ValueId, LoopTypes>();
  private readonly labels = new Set<string>();
  private readonly program: Program;

  constructor(program: Program) {
    this.program = program;
  }

  check(): void {
    for (const op of this.program.ops) this.checkOp(op, null);
    const labels = new Set<string>();
    for (const { label, value, per } of this.program.outputs) {
      if (labels.has(label)) fail(`two outputs are called ${label}`);
      labels.add(label);
      const { shape } = this.typeOf(value);
      if (per === "token" && shape[0] !== tokenDim) fail(`output ${label} has no token axis`);
      if (per === "state" && shape.includes(tokenDim)) fail(`output ${label} has a token axis`);
    }
  }

  private typeOf = (id: ValueId): TensorType => {
    const type = this.types.get(id);
    if (type) return type;
    const why = this.taken.has(id) ? "read outside its loop" : "used before it is defined";
    return fail(`%${id} is ${why}`);
  };

  private shapeOf(id: ValueId): readonly Dim[] {
    return this.typeOf(id).shape;
  }

  private define(id: ValueId, type: TensorType): void {
    if (this.taken.has(id)) fail(`%${id} is defined twice`);
    this.taken.add(id);
    this.types.set(id, type);
  }

  private checkOp(op: Op, region: RegionKind | null): void {
    operands(op).forEach(this.typeOf);
    this.checkOwnRules(op, region);
    const { id, type, name: _name, span: _span, ...draft } = op;
    const { shape } = resultType(draft, this.typeOf, region, type);
    if (!sameShape(shape, type.shape)) {
      fail(`%${id}: ${op.kind} gives ${show(shape)}, not ${show(type.shape)}`);
    }
    // Only what is stacked over tokens or chunks has more axes, and only `rows` reads it.
    const isStacked = op.kind === "result" || op.kind === "input";
    const most = isStacked || op.kind === "scan-state" ? 3 : 2;
    if (shape.length > most) fail(`%${id} has rank ${shape.length}`);
    shape.forEach((dim, axis) => {
      const isCount = dim === chunkCountDim || pieceOf(dim) !== null;
      // A square of each chunk, stacked over tokens, has a row for each token.
      if (op.kind === "result" && axis === 1 && dim === chunkDim) return;
      if (!((isStacked || op.kind === "scan-state") && axis === 0 && isCount)) {
        this.checkDim(dim, region);
      }
    });
    this.define(id, type);
  }

  private checkDim(dim: Dim, region: RegionKind | null): void {
    if (typeof dim === "number") return;
    if (dim === chunkDim && region !== "chunks") fail(`the dim ${dim} stands outside a chunk`);
    if (dim !== chunkDim && !this.program.dims.has(dim)) fail(`the dim ${dim} is not declared`);
  }

  private checkOwnRules(op: Op, region: RegionKind | null): void {
    switch (op.kind) {
      case "input":
        if (region !== null) fail(`input ${op.label} stands inside a loop`);
        return this.checkInput(op);
      case "dim-size":
        return this.checkDim(op.dim, region);
      case "token-index":
        return this.expectShape(op.id, "token-index", op.type.shape, [tokenDim]);
      case "iota":
        return this.expectRank(op.id, op.type, 1);
      case "map": {
        const wanted = arityOf(op.fn);
        if (op.args.length !== wanted) fail(`%${op.id}: ${op.fn} takes ${wanted} operands`);
        return;
      }
      case "rotate-half": {
        const width = this.shapeOf(op.arg).at(-1) ?? fail(`%${op.id}: rotate-half of a scalar`);
        const size = typeof width === "number" ? width : this.program.dims.get(width);
        if (typeof size === "number" && size % 2 !== 0) fail(`%${op.id}: ${width} is odd`);
        return;
      }
      case "outer":
        for (const id of operands(op)) this.expectRank(id, this.typeOf(id), 1);
        return;
      case "transpose":
        return this.expectRank(op.arg, this.typeOf(op.arg), 2);
      case "cumsum": {
        const axis = this.shapeOf(op.arg)[0];
        if (axis !== tokenDim && axis !== chunkDim) fail(`%${op.id}: cumsum without a token axis`);
        if (op.block !== null && !(op.block > 0))
          fail(`%${op.id}: cumsum over blocks of ${op.block}`);
        if (op.earlier && op.block === null)
          fail(`%${op.id}: cumsum without blocks has no earlier`);
        return;
      }
      case "block-mask":
        if (!(op.block >= (op.within ? 1 : 0))) fail(`%${op.id}: blocks of ${op.block}`);
        return;
      case "solve": {
        const [matrix, rhs] = [this.shapeOf(op.matrix), this.shapeOf(op.rhs)];
        this.expectShape(op.id, "the matrix", matrix, [rhs[0]!, rhs[0]!]);
        return this.expectRank(op.rhs, this.typeOf(op.rhs), 2);
      }
      case "invert": {
        const [size] = this.shapeOf(op.arg);
        return this.expectShape(op.id, "the triangle", this.shapeOf(op.arg), [size!, size!]);
      }
      case "causal":
        return this.checkCausal(op, region);
      case "scan":
      case "scan-state":
      case "delta":
        if (region !== null) fail(`%${op.id}: a ${op.kind} inside a loop`);
        return this.checkScan(op);
      case "recurrence":
      case "chunks":
        if (region !== null) fail(`%${op.id}: a loop inside a loop`);
        return this.checkRegion(op);
      case "result":
        return this.checkResult(op);
      default:
    }
  }

  private expectRank(id: ValueId, { shape }: TensorType, rank: number): void {
    if (shape.length !== rank) fail(`%${id} is ${show(shape)}, not of rank ${rank}`);
  }

  private expectShape(
    id: ValueId,
    what: string,
    shape: readonly Dim[],
    wanted: readonly Dim[],
  ): void {
    if (!sameShape(shape, wanted)) fail(`%${id}: ${what} is ${show(shape)}, not ${show(wanted)}`);
  }

  private checkInput({ label, per, type }: Input): void {
    if (this.labels.has(label)) fail(`two inputs are called ${label}`);
    this.labels.add(label);
    const isPerToken = type.shape[0] === tokenDim;
    if (per === "token" && !isPerToken) fail(`${label} has no token axis`);
    if (per !== "token" && type.shape.includes(tokenDim)) fail(`${label} has a token axis`);
    const isPerPiece = pieceOf(type.shape[0]) !== null;
    if ((per === "chunk") !== isPerPiece) fail(`${label} is ${per} and ${show(type.shape)}`);
  }

  private checkCausal(op: Causal, region: RegionKind | null): void {
    if (op.logDecay === null) return;
    const shape = this.shapeOf(op.logDecay);
    const tokens = region === "chunks" ? chunkDim : tokenDim;
    if (shape.length > 0) this.expectShape(op.id, "log decay", shape, [tokens]);
  }

  private checkScan(op: Scan | ScanState | Delta): void {
    const { id, axis } = op;
    if ((axis === "none") !== (op.logDecay === null)) fail(`%${id}: axis and decay disagree`);
    const [first] = op.writes;
    if (!first) fail(`%${id}: a ${op.kind} without writes`);
    const [key, value] = [this.shapeOf(first!.k), this.shapeOf(first!.v)];
    if (key.length !== 2 || value.length !== 2) fail(`%${id}: key and value are not of rank 2`);
    for (const shape of [key, value]) {
      if (shape[0] !== tokenDim) fail(`%${id}: ${show(shape)} has no token axis`);
    }
    for (const { k, v } of op.writes) {
      this.expectShape(id, "a key", this.shapeOf(k), key);
      this.expectShape(id, "a value", this.shapeOf(v), value);
    }
    if (op.kind === "delta") this.checkDelta(op, key);
    if (op.kind === "scan") {
      this.expectShape(id, "query", this.shapeOf(op.q), key);
      const isMasked = op.logDecay !== null || op.reverse || op.read === "before";
      if (!op.causal && isMasked) fail(`%${id}: a scan without a mask has no decay and no order`);
    }
    const state = [key[1]!, value[1]!];
    if (op.initial !== null) this.expectShape(id, "first state", this.shapeOf(op.initial), state);
    if (op.logDecay === null) return;
    const decay = this.shapeOf(op.logDecay);
    const along = { none: [], scalar: [], key: [key[1]!], value: [value[1]!] }[axis];
    if (axis === "scalar" && decay.length === 0) return;
    this.expectShape(id, "log decay", decay, [tokenDim, ...along]);
  }

  private checkDelta(op: Delta, key: readonly Dim[]): void {
    const { id, writes } = op;
    if (op.axis === "value") fail(`%${id}: a delta whose decay runs along the value axis`);
    if (!writes[op.index]) fail(`%${id}: there is no write ${op.index}`);
    for (const { erase } of writes) {
      if (erase !== null) this.expectShape(id, "an erase vector", this.shapeOf(erase), key);
    }
    for (const { to, from, scale } of op.couplings) {
      if (!(from < to && writes[to])) fail(`%${id}: write ${to} cannot read write ${from}`);
      this.expectShape(id, "a coupling", this.shapeOf(scale), [tokenDim]);
    }
  }

  private checkRegion(op: Loop): void {
    const { params, ops } = op.region;
    if (op.inits.length !== params.length || op.carries.length !== params.length) {
      fail(`%${op.id}: states, first values and carried values differ in number`);
    }
    const outside = new Set(this.types.keys());
    const piece = (op.kind === "chunks" && op.piece) || null;
    params.forEach((param, i) => {
      const init = op.inits[i]!;
      const { shape } = param.type;
      const first = piece === null ? shape : [pieceDim(piece), ...shape];
      if (init !== null) this.expectShape(op.id, param.name, this.shapeOf(init), first);
      for (const dim of shape) this.checkDim(dim, op.kind);
      this.define(param.id, param.type);
    });
    for (const inner of ops) this.checkOp(inner, op.kind);
    op.carries.forEach((id, i) => {
      const { name, type } = params[i]!;
      this.expectShape(op.id, `${name} at the end`, this.shapeOf(id), type.shape);
    });
    this.loops.set(op.id, {
      yields: op.yields.map((id) => ({ shape: this.stacked(op, this.shapeOf(id)) })),
      carries: params.map(({ type: { shape } }) => ({
        shape: piece === null ? shape : [pieceDim(piece), ...shape],
      })),
      states: params.map(({ type }) => type),
    });
    for (const id of this.types.keys()) if (!outside.has(id)) this.types.delete(id);
  }

  /** The shape of a yield once it is stacked over tokens. */
  private stacked({ id, kind }: Loop, shape: readonly Dim[]): readonly Dim[] {
    if (kind === "recurrence") return [tokenDim, ...shape];
    if (shape[0] === chunkDim) return [tokenDim, ...shape.slice(1)];
    if (shape.includes(chunkDim)) fail(`%${id}: a yield of ${show(shape)} has its chunk axis last`);
    return [chunkCountDim, ...shape];
  }

  private checkResult(op: Result): void {
    const loop = this.loops.get(op.of) ?? fail(`%${op.id} is a result of no loop`);
    if (op.part === "checkpoint") {
      const [count, ...shape] = op.type.shape;
      if (!((pieceOf(count) ?? 0) > 0)) fail(`%${op.id}: a checkpoint without pieces`);
      const state = loop.states[op.index] ?? fail(`%${op.id}: the loop has no state ${op.index}`);
      return this.expectShape(op.id, "the checkpoint", shape, state.shape);
    }
    const part = op.part === "yield" ? loop.yields : loop.carries;
    const type = part[op.index] ?? fail(`%${op.id}: the loop has no ${op.part} ${op.index}`);
    this.expectShape(op.id, `the ${op.part}`, op.type.shape, type.shape);
  }
}

/** How many operands a function takes. */
export function arityOf(fn: MapFn): number {
  if ((unaryFns as readonly string[]).includes(fn)) return 1;
  return (binaryFns as readonly string[]).includes(fn) ? 2 : 3;
}

function show(shape: readonly Dim[]): string {
  return `[${shape.join(", ")}]`;
}
