/**
 * Lowers one chunk loop, or what is left outside of loops, to statements on storages.
 *
 * Demand-driven: asking for a value's storage emits what computes it. Maps stay expressions as long
 * as one consumer of the same rank reads them; products, folds, loads and what is read twice get a
 * storage. Values that do not depend on the chunk are computed before the loop. A state is updated in
 * place, after everything that reads its old value.
 */
import { CompilerBug, assertNever } from "../support/never.ts";
import type {
  BlockMask,
  Causal,
  CumSum,
  Dim,
  MapFn,
  MapOp,
  MatMul,
  Op,
  RegionParam,
  SumDirection,
  TensorType,
  ValueId,
} from "../tensor/ir.ts";
import { evaluateFn } from "../tensor/functions.ts";
import { chunkDim, operands, tokenDim } from "../tensor/ir.ts";
import { triangleOf } from "../tensor/triangle.ts";
import type { Axis, Expr, Index, Stmt, Storage, StorageId, SumPart, View } from "./ir.ts";
import { type Padding, paddingOf } from "./padding.ts";
import { inTurns } from "./term-order.ts";

/** How the values of a kernel are cut: sizes of dims, and the class of axes split over the grid. */
export interface Cut {
  readonly sizeOf: (dim: Dim) => number;
  readonly chunk: number;
  readonly alignRows: number;
  readonly alignCols: number;
  /** Is this axis cut into blocks over the grid? Then its part starts at `variable`. */
  readonly isCut: (value: ValueId, axis: number) => boolean;
  readonly block: number;
  readonly variable: string;
}

export interface KernelSource {
  readonly ops: ReadonlyMap<ValueId, Op>;
  readonly params: readonly RegionParam[];
  /** The buffer that a value is loaded from, or null when it is computed. */
  readonly bufferOf: (value: ValueId) => string | null;
  /** Does a buffer hold one part for each chunk? */
  readonly isPerChunk: (buffer: string) => boolean;
  readonly noteOf: (op: Op) => string | null;
  readonly cut: Cut;
}

/** What a statement list is for: once, before each piece, for each chunk, or after the loop. */
type Phase = "prologue" | "piece" | "body" | "epilogue";

interface Cell {
  readonly storage: Storage;
  /** One entry for each axis. */
  padding: Padding[];
}

/** A value as an expression, and what stands in its padding, by axis. */
interface Written {
  readonly expr: Expr;
  readonly padding: Padding[];
}

/** The first token of the chunk, and of the piece that it belongs to. */
export const loopVariable = "t";
export const pieceVariable = "piece";

export class KernelLowering {
  readonly storages: Storage[] = [];
  private readonly phases: Record<Phase, Stmt[]> = {
    prologue: [],
    piece: [],
    body: [],
    epilogue: [],
  };
  private readonly cells = new Map<ValueId, Cell>();
  /** Copies with their padding filled, by value, axes and filling. */
  private readonly masked = new Map<string, Cell>();
  /** The parts of log decays' sums, by the log decay, the part and the direction. */
  private readonly partialSums = new Map<string, Storage>();
  private readonly uses = new Map<ValueId, number>();
  private readonly isVarying = new Map<ValueId, boolean>();
  /** Of values the place of the last product that they come of. */
  private readonly names = new Set<string>([loopVariable, pieceVariable]);
  private readonly source: KernelSource;

  constructor(source: KernelSource) {
    this.source = source;
    for (const op of source.ops.values()) {
      for (const id of operands(op)) this.uses.set(id, (this.uses.get(id) ?? 0) + 1);
    }
  }

  statements(phase: Phase): readonly Stmt[] {
    return this.phases[phase];
  }

  /** Counts a use of a value from outside the ops: a yield or a carry. */
  use(id: ValueId): void {
    this.uses.set(id, (this.uses.get(id) ?? 0) + 1);
  }

  // --- carried states -----------------------------------------------------------------------

  /** Gives a state its storage, filled before the loop with `init` or zero. */
  openState(param: RegionParam, init: ValueId | null): void {
    const storage = this.newStorage(param.name, param.type, param.id);
    this.isVarying.set(param.id, true);
    this.cells.set(param.id, { storage, padding: param.type.shape.map(() => "zero") });
    if (init === null) {
      this.emit("prologue", null, { kind: "map", dst: storage.id, expr: constant(0) });
      return;
    }
    this.fill("prologue", storage, init);
  }

  /** Updates all states at the end of the body; in place where a value reads only its own state. */
  updateStates(params: readonly RegionParam[], carries: readonly ValueId[]): void {
    const prepared = params.map((param, i) => {
      const carry = carries[i]!;
      this.prepare(carry);
      const others = params.filter((other) => other !== param);
      const readsOthers = others.some((other) => this.inlineReads(carry).has(other.id));
      return readsOthers || this.multiplies(carry, param.id) ? this.materialize(carry) : null;
    });
    params.forEach((param, i) => {
      const { storage } = this.cells.get(param.id)!;
      const ready = prepared[i] ?? null;
      if (ready === null) {
        const padding = this.fill("body", storage, carries[i]!);
        this.clean(param.id, { storage, padding }, "body");
        return;
      }
      const expr = this.readStorage(ready.storage, "same");
      this.emit("body", this.noteOf(carries[i]!), { kind: "map", dst: storage.id, expr });
      this.clean(param.id, { storage, padding: [...ready.padding] }, "body");
    });
  }

  /** Writes a value to a buffer. */
  store(phase: Phase, value: ValueId, buffer: string): void {
    this.materialize(value, phase, buffer);
    // Whoever reads a square of a chunk takes its columns behind the last token for zeros.
    const isSquare = this.rank(value) === 2 && this.typeOf(value).shape[1] === chunkDim;
    const { storage } = isSquare ? this.cleaned(value, [1], phase, 0) : this.cells.get(value)!;
    this.emit(phase, this.noteOf(value), {
      kind: "store",
      src: storage.id,
      view: this.viewOf(value, buffer, phase),
    });
  }

  // --- values -------------------------------------------------------------------------------

  private op(id: ValueId): Op {
    const op = this.source.ops.get(id);
    if (!op) throw new CompilerBug(`from-tensor: %${id} is not computed in this kernel`);
    return op;
  }

  private typeOf(id: ValueId): TensorType {
    const param = this.source.params.find((candidate) => candidate.id === id);
    return param ? param.type : this.op(id).type;
  }

  private rank(id: ValueId): number {
    return this.typeOf(id).shape.length;
  }

  private noteOf(id: ValueId): string | null {
    const op = this.source.ops.get(id);
    return op ? this.source.noteOf(op) : null;
  }

  /** Does a value differ from chunk to chunk? */
  private varies(id: ValueId): boolean {
    const known = this.isVarying.get(id);
    if (known !== undefined) return known;
    const op = this.op(id);
    // What folds along tokens masks the last chunk's padding, which depends on where the chunk lies.
    const folds = this.foldsTokens(op);
    const loaded = this.source.bufferOf(id) !== null;
    const varying =
      op.kind === "rows" ||
      (op.kind === "dim-size" && op.dim === chunkDim) ||
      folds ||
      (!loaded && operands(op).some((operand) => this.varies(operand)));
    this.isVarying.set(id, varying);
    return varying;
  }

  /** Does an op add up, or solve, along the tokens of a chunk? */
  private foldsTokens(op: Op): boolean {
    const hasTokens = (id: ValueId) => this.typeOf(id).shape.includes(chunkDim);
    switch (op.kind) {
      case "reduce":
      case "cumsum":
      case "invert":
        return hasTokens(op.arg);
      case "solve":
        return hasTokens(op.matrix);
      case "matmul":
        return this.typeOf(op.rhs).shape[0] === chunkDim;
      default:
        return false;
    }
  }

  private phaseOf(id: ValueId, wanted: Phase): Phase {
    if (wanted !== "body") return wanted;
    return this.varies(id) ? "body" : "prologue";
  }

  /** The storage of a value, computed now if it was not yet; `hint` names it if nothing else does. */
  private materialize(id: ValueId, wanted: Phase = "body", hint: string | null = null): Cell {
    const known = this.cells.get(id);
    if (known) return known;
    const op = this.op(id);
    const phase = this.phaseOf(id, wanted);
    const storage = this.newStorage(op.name ?? hint ?? wordFor(op), op.type, id);
    const padding = this.fill(phase, storage, id);
    const cell = { storage, padding };
    this.cells.set(id, cell);
    return cell;
  }

  /** Emits what computes `id` into `storage`; gives the padding it leaves there. */
  private fill(phase: Phase, storage: Storage, id: ValueId): Padding[] {
    const note = this.noteOf(id);
    const dst = storage.id;
    const known = this.cells.get(id);
    if (known) {
      const expr = this.readStorage(known.storage, "same");
      if (known.storage !== storage) this.emit(phase, note, { kind: "map", dst, expr });
      return [...known.padding];
    }
    const op = this.op(id);
    const buffer = this.source.bufferOf(op.kind === "rows" ? op.arg : id);
    if (buffer !== null) {
      this.emit(phase, note, { kind: "load", dst, view: this.viewOf(id, buffer, phase) });
      return op.type.shape.map(() => "zero");
    }
    switch (op.kind) {
      case "matmul":
        return this.fillMatmul(phase, storage, op);
      case "map": {
        const product = this.accumulated(op);
        if (product) {
          const [rest, matmul] = product;
          // What others read too is computed once, in a storage of its own.
          if (this.uses.get(rest) !== 1 && this.source.ops.has(rest)) this.materialize(rest, phase);
          const before = this.fill(phase, storage, rest);
          const after = this.multiply(phase, storage, matmul);
          return before.map((padding, axis) => paddingOf("add", [padding, after[axis]!]));
        }
        this.fillFirst(phase, storage, op);
        const { expr, padding } = this.expression(id, phase);
        this.emit(phase, note, { kind: "map", dst, expr });
        return padding;
      }
      case "reduce": {
        const rank = this.rank(op.arg);
        const axis: Axis = rank === 2 && op.axis === 1 ? "col" : "row";
        const src = this.cleaned(op.arg, [op.axis], phase, op.fn === "max" ? -Infinity : 0);
        this.emit(phase, note, {
          kind: "reduce",
          fn: op.fn,
          dst,
          src: src.storage.id,
          axis,
          scratch: null,
        });
        const kept = src.padding.filter((_, i) => i !== op.axis);
        return kept.map((padding) => (padding === "data" ? "finite" : padding));
      }
      case "cumsum": {
        const joined = this.joinedSums(op, phase);
        if (joined !== null) {
          this.emit(phase, note, { kind: "map", dst, expr: joined });
          return ["sums"];
        }
        const src = this.cleaned(op.arg, [0], phase, 0);
        const { reverse, exclusive, block, earlier } = op;
        const how = { reverse, exclusive, block, ...(earlier && { earlier }) };
        this.emit(phase, note, { kind: "cumsum", dst, src: src.storage.id, ...how });
        return ["sums", ...src.padding.slice(1)];
      }
      case "solve": {
        // Rows behind the last token must neither reach the others nor grow.
        const { id: factor, transposed: transpose } = this.factor(op.matrix);
        const matrix = this.cleaned(factor, [0, 1], phase, 0);
        const rhs = this.cleaned(op.rhs, [0], phase, 0);
        this.emit(phase, note, { kind: "map", dst, expr: this.readStorage(rhs.storage, "same") });
        const how = { upper: op.upper, transpose };
        this.emit(phase, note, { kind: "solve", dst, matrix: matrix.storage.id, ...how });
        return ["zero", rhs.padding[1] === "data" ? "finite" : rhs.padding[1]!];
      }
      case "invert": {
        const triangle = this.cleaned(op.arg, [0, 1], phase, 0);
        const expr = this.readStorage(triangle.storage, "same");
        this.emit(phase, note, { kind: "map", dst, expr });
        this.emit(phase, note, { kind: "invert", dst });
        return ["zero", "zero"];
      }
      case "rotate-half": {
        const src = this.materialize(op.arg, phase);
        const width = this.source.cut.sizeOf(op.type.shape.at(-1)!);
        this.emit(phase, note, { kind: "rotate-half", dst, src: src.storage.id, width });
        return [...src.padding.slice(0, -1), "zero"];
      }
      case "result":
      case "input":
      case "recurrence":
      case "chunks":
      case "scan":
      case "scan-state":
      case "delta":
      case "transpose":
        throw new CompilerBug(`from-tensor: ${op.kind} %${id} cannot be computed here`);
      default: {
        const { expr, padding } = this.expression(id, phase);
        this.emit(phase, note, { kind: "map", dst, expr });
        return padding;
      }
    }
  }

  /** A product that only this map reads is accumulated in the map's own storage. */
  private fillFirst(phase: Phase, storage: Storage, op: MapOp): void {
    if (op.type.shape.length !== 2) return;
    for (const id of op.args) {
      const arg = this.source.ops.get(id);
      const isProduct =
        arg?.kind === "matmul" || (arg?.kind === "map" && this.accumulated(arg) !== null);
      if (!arg || !isProduct || this.cells.has(id) || this.uses.get(id) !== 1) continue;
      if (arg.type.shape.length !== 2 || this.phaseOf(id, phase) !== phase) continue;
      this.cells.set(id, { storage, padding: this.fill(phase, storage, id) });
      return;
    }
  }

  // --- long sums ----------------------------------------------------------------------------

  /**
   * Adds up tiles of three terms and more term by term, so that neither terms nor what they are made of need to live
   * side by side until the sum is wanted. Not those that become states, which are summed up in place.
   */
  sumEarly(states: ReadonlySet<ValueId>): void {
    const before = new Map<ValueId, ValueId>();
    for (const id of this.source.ops.keys()) {
      const rest = this.sumBefore(id);
      if (rest !== null) before.set(id, rest);
    }
    const inner = new Set(before.values());
    const terms = [...before.keys()].flatMap((root) => {
      if (inner.has(root) || states.has(root) || this.phaseOf(root, "body") !== "body") return [];
      return this.termsOf(root, before).map((term) => ({ root, term }));
    });
    const turns = inTurns(terms, this.source.ops, (op) => {
      return this.source.bufferOf(bufferKey(op)) !== null;
    });
    const last = new Map(turns.map(({ root }, i) => [root, i]));
    const sums = new Map<ValueId, Cell>();
    for (const [i, { root, term }] of turns.entries()) {
      const { name, type } = this.op(root);
      const known = sums.get(root);
      const sum = known
        ? this.plus(known, term, root)
        : this.firstTerm(term, this.newStorage(name ?? "sum", type, root), root);
      sums.set(root, sum);
      if (i === last.get(root)) this.cells.set(root, sum);
    }
  }

  /** What is added up to a sum, in order. */
  private termsOf(id: ValueId, before: ReadonlyMap<ValueId, ValueId>): ValueId[] {
    const { args } = this.op(id) as MapOp;
    const rest = before.get(id);
    if (rest === undefined) return [...args];
    const others = args.filter((arg, i) => arg !== rest || args.indexOf(arg) !== i);
    return [...this.termsOf(rest, before), ...others];
  }

  /** Of a sum of tiles that begins with another that nobody else reads, the other. */
  private sumBefore(id: ValueId): ValueId | null {
    const isSum = (of: ValueId) => {
      const op = this.source.ops.get(of);
      return op?.kind === "map" && op.fn === "add" && op.type.shape.length === 2;
    };
    if (!isSum(id)) return null;
    const { args } = this.op(id) as MapOp;
    const whole = (arg: ValueId) => this.rank(arg) === 2;
    return args.find((arg) => isSum(arg) && whole(arg) && this.uses.get(arg) === 1) ?? null;
  }

  private firstTerm(id: ValueId, storage: Storage, of: ValueId): Cell {
    if (this.rank(id) < 2) {
      const { expr, padding } = this.argument(id, this.op(of) as MapOp, "body");
      this.emit("body", this.noteOf(of), { kind: "map", dst: storage.id, expr });
      return { storage, padding };
    }
    if (this.uses.get(id) !== 1 && this.source.ops.has(id)) this.materialize(id);
    return { storage, padding: this.fill("body", storage, id) };
  }

  private plus(sum: Cell, term: ValueId, of: ValueId): Cell {
    const added = this.addTerm(sum.storage, term, of);
    const padding = sum.padding.map((own, axis) => paddingOf("add", [own, added[axis]!]));
    return { storage: sum.storage, padding };
  }

  private addTerm(sum: Storage, term: ValueId, of: ValueId): Padding[] {
    const op = this.source.ops.get(term);
    const isProduct = op?.kind === "matmul" && this.uses.get(term) === 1 && !this.cells.has(term);
    if (isProduct && this.rank(op.lhs) === 2 && this.rank(op.rhs) === 2) {
      return this.multiply("body", sum, op);
    }
    const { expr, padding } = this.argument(term, this.op(of) as MapOp, "body");
    const added = call("add", [this.readStorage(sum, "same"), expr]);
    this.emit("body", this.noteOf(of), { kind: "map", dst: sum.id, expr: added });
    return padding;
  }

  // --- products -----------------------------------------------------------------------------

  /** x + a @ b, the product read nowhere else: [x, the product]. */
  private accumulated(op: MapOp): [ValueId, MatMul] | null {
    if (op.fn !== "add" || op.type.shape.length !== 2) return null;
    const [a, b] = op.args as [ValueId, ValueId];
    for (const [rest, id] of [
      [a, b],
      [b, a],
    ] as const) {
      const product = this.source.ops.get(id);
      // What is added spreads no further than the product: it is what the tile starts from.
      if (this.rank(rest) !== 2) continue;
      if (product?.kind !== "matmul" || this.cells.has(id) || this.uses.get(id) !== 1) continue;
      if (this.rank(product.lhs) === 2 && this.rank(product.rhs) === 2) return [rest, product];
    }
    return null;
  }

  private fillMatmul(phase: Phase, storage: Storage, op: MatMul): Padding[] {
    if (op.type.shape.length === 2) {
      const note = this.source.noteOf(op);
      this.emit(phase, note, { kind: "map", dst: storage.id, expr: constant(0) });
      return this.multiply(phase, storage, op);
    }
    return this.multiplyVector(phase, storage, op);
  }

  /** storage += lhs @ rhs; contracted padding is cleaned first. */
  private multiply(phase: Phase, storage: Storage, op: MatMul): Padding[] {
    const lhs = this.factor(op.lhs);
    const rhs = this.factor(op.rhs);
    const inner = { lhs: lhs.transposed ? 0 : 1, rhs: rhs.transposed ? 1 : 0 };
    const [a, b] = this.agree([lhs.id, inner.lhs], [rhs.id, inner.rhs], phase);
    const triangle = triangleOf(op.lhs, (id) => this.source.ops.get(id));
    this.emit(phase, this.source.noteOf(op), {
      kind: "mma",
      dst: whole(storage),
      lhs: whole(a.storage),
      rhs: whole(b.storage),
      transposeLhs: lhs.transposed,
      transposeRhs: rhs.transposed,
      ...(triangle && { triangle: { ...triangle, from: { base: null, offset: 0 } } }),
    });
    const outer = (padding: Padding) => (padding === "data" ? "finite" : padding);
    return [outer(a.padding[1 - inner.lhs]!), outer(b.padding[1 - inner.rhs]!)];
  }

  private factor(id: ValueId): { id: ValueId; transposed: boolean } {
    const op = this.source.ops.get(id);
    return op?.kind === "transpose" ? { id: op.arg, transposed: true } : { id, transposed: false };
  }

  /** Two factors whose contracted padding multiplies to zero: masked in place, or masked copies. */
  private agree(
    [lhs, lhsAxis]: readonly [ValueId, number],
    [rhs, rhsAxis]: readonly [ValueId, number],
    phase: Phase,
  ): readonly [Cell, Cell] {
    let a = this.materialize(lhs, phase);
    let b = this.materialize(rhs, phase);
    if (this.fits(lhs, lhsAxis) && this.fits(rhs, rhsAxis)) return [a, b];
    if (a.padding[lhsAxis] === "any") a = this.cleaned(lhs, [lhsAxis], phase, 0);
    if (b.padding[rhsAxis] === "any") b = this.cleaned(rhs, [rhsAxis], phase, 0);
    if (a.padding[lhsAxis] === "zero" || b.padding[rhsAxis] === "zero") return [a, b];
    // A factor that is made in this phase is masked in place; any other would need a copy.
    const cleansRhs = this.phaseOf(lhs, phase) !== phase && this.phaseOf(rhs, phase) === phase;
    if (cleansRhs) b = this.cleaned(rhs, [rhsAxis], phase, 0);
    else a = this.cleaned(lhs, [lhsAxis], phase, 0);
    return [a, b];
  }

  /** Products with a vector: an elementwise product, then a fold. */
  private multiplyVector(phase: Phase, storage: Storage, op: MatMul): Padding[] {
    const [rankL, rankR] = [this.rank(op.lhs), this.rank(op.rhs)];
    const lhs = this.factor(op.lhs);
    const rhs = this.factor(op.rhs);
    const matrix = rankL === 2 ? lhs : rhs;
    const vector = rankL === 2 ? rhs : lhs;
    // The contracted axis of the matrix as it is stored.
    const along = (rankL === 2) !== matrix.transposed ? 1 : 0;
    if (rankL === 1 && rankR === 1) {
      const [a, b] = this.agree([lhs.id, 0], [rhs.id, 0], phase);
      const product = this.newStorage("product", this.typeOf(lhs.id), lhs.id);
      const rows = [a, b].map(({ storage: own }) => this.readStorage(own, "row"));
      const expr = call("mul", rows);
      const note = this.source.noteOf(op);
      this.emit(phase, note, { kind: "map", dst: product.id, expr });
      this.reduceInto(phase, storage, product, "row", note);
      return [];
    }
    const [a, b] = this.agree([matrix.id, along], [vector.id, 0], phase);
    const product = this.newStorage("product", this.typeOf(matrix.id), matrix.id);
    const expr = call("mul", [
      this.readStorage(a.storage, "tile"),
      this.readStorage(b.storage, along === 1 ? "col" : "row"),
    ]);
    const note = this.source.noteOf(op);
    this.emit(phase, note, { kind: "map", dst: product.id, expr });
    this.reduceInto(phase, storage, product, along === 1 ? "col" : "row", note);
    const left = a.padding[1 - along]!;
    return [left === "data" ? "finite" : left];
  }

  private reduceInto(phase: Phase, dst: Storage, src: Storage, axis: Axis, note: string | null) {
    const ids = { dst: dst.id, src: src.id };
    this.emit(phase, note, { kind: "reduce", fn: "sum", ...ids, axis, scratch: null });
  }

  // --- expressions --------------------------------------------------------------------------

  /** A value as an expression over its own elements, with the padding it leaves on each axis. */
  private expression(id: ValueId, phase: Phase): Written {
    const op = this.op(id);
    const rank = op.type.shape.length;
    const finite = op.type.shape.map((): Padding => "finite");
    switch (op.kind) {
      case "const":
        return {
          expr: constant(op.value),
          padding: op.type.shape.map(() => (op.value === 0 ? "zero" : "finite")),
        };
      case "dim-size":
        if (op.dim === chunkDim) return { expr: this.tokensOfChunk(), padding: [] };
        return op.dim === tokenDim
          ? { expr: { kind: "runtime", scalar: "T_total" }, padding: [] }
          : { expr: constant(this.source.cut.sizeOf(op.dim)), padding: [] };
      case "iota":
        return { expr: this.index(id, 0, false), padding: finite };
      case "rows": {
        // Loads have buffers and never come here: what is left is the token index.
        return { expr: this.index(id, 0, true), padding: finite };
      }
      case "causal":
        return { expr: this.mask(op, phase), padding: finite };
      case "block-mask":
        return { expr: call("select", [inBlocks(op), constant(1), constant(0)]), padding: finite };
      case "outer": {
        const read = (arg: ValueId, axis: Axis) => this.read(arg, axis, phase);
        const [a, b] = [this.padding(op.lhs), this.padding(op.rhs)];
        return {
          expr: call("mul", [read(op.lhs, "row"), read(op.rhs, "col")]),
          padding: [paddingOf("mul", [a[0]!, "data"]), paddingOf("mul", [b[0]!, "data"])],
        };
      }
      case "map": {
        const args = op.args.map((arg) => this.argument(arg, op, phase)).map(leavingZeros(op.fn));
        const padding = op.type.shape.map((_, axis) =>
          isAboveZeros(op.fn, args, axis)
            ? "positive"
            : paddingOf(
                op.fn,
                args.map((arg) => arg.padding[axis] ?? "data"),
              ),
        );
        const masked = rank === 2 ? this.maskedProduct(op, phase) : null;
        const [first, ...rest] = args.map((arg) => arg.expr) as [Expr, ...Expr[]];
        const head = op.fn === "select" ? conditionOf(first) : first;
        return { expr: masked ?? call(op.fn, [head, ...rest]), padding };
      }
      default:
        throw new CompilerBug(`from-tensor: ${op.kind} is not an expression`);
    }
  }

  /** An operand of a map as an expression in the map's frame; paddings by the map's axes. */
  private argument(arg: ValueId, op: MapOp, phase: Phase): Written {
    const shape = this.typeOf(arg).shape;
    const whole = op.type.shape;
    if (shape.length === whole.length) {
      const { expr, padding } = this.inline(arg, phase);
      return { expr, padding };
    }
    const cell = this.needsStorage(arg) ? this.materialize(arg, phase) : null;
    const inner = cell
      ? { expr: this.readStorage(cell.storage, "same"), padding: cell.padding }
      : this.expression(arg, phase);
    if (shape.length === 0) return { expr: inner.expr, padding: [] };
    const axis = whole[0] === shape[0] ? 0 : 1;
    const padding: Padding[] = ["data", "data"];
    padding[axis] = inner.padding[0]!;
    return { expr: orient(inner.expr, axis === 0 ? "row" : "col"), padding };
  }

  /** The value as an expression where that costs nothing twice, else a read of its storage. */
  private inline(id: ValueId, phase: Phase): Written {
    if (this.canInline(id, phase)) return this.expression(id, phase);
    const { storage, padding } = this.materialize(id, phase);
    return { expr: this.readStorage(storage, "same"), padding };
  }

  private canInline(id: ValueId, phase: Phase): boolean {
    const op = this.source.ops.get(id);
    if (!op || this.cells.has(id)) return false;
    if (!isExpression(op) || this.source.bufferOf(bufferKey(op)) !== null) return false;
    if (this.isTrivial(op)) return true;
    const isProduct = op.kind === "map" && this.accumulated(op) !== null;
    const isHoisted = phase === "body" && !this.varies(id);
    return this.uses.get(id) === 1 && !isProduct && !isHoisted;
  }

  /** A number, a counter, a triangle, or what little arithmetic makes of them: cheaper to write again than to keep. */
  private isTrivial(op: Op): boolean {
    switch (op.kind) {
      case "const":
      case "iota":
      case "block-mask":
        return true;
      case "dim-size":
        return op.dim !== chunkDim;
      case "causal":
        return op.logDecay === null;
      case "map": {
        const made = (id: ValueId) => this.source.ops.get(id);
        const args = op.args.map(made);
        return cheapFns.has(op.fn) && args.every((arg) => arg !== undefined && this.isTrivial(arg));
      }
      default:
        return false;
    }
  }

  /** A vector or scalar read by a larger map is computed once, unless it is nothing but a number. */
  private needsStorage(id: ValueId): boolean {
    const op = this.source.ops.get(id);
    return !op || !this.isTrivial(op) || this.source.bufferOf(bufferKey(op)) !== null;
  }

  private read(id: ValueId, at: "tile" | "row" | "col", phase: Phase): Expr {
    const op = this.source.ops.get(id);
    if (op && this.isTrivial(op) && !this.cells.has(id)) {
      const { expr } = this.expression(id, phase);
      return at === "tile" ? expr : orient(expr, at);
    }
    const { storage } = this.materialize(id, phase);
    return this.readStorage(storage, at);
  }

  private readStorage(storage: Storage, at: "tile" | "row" | "col" | "same"): Expr {
    const rank = storage.shape.length;
    const own = rank === 2 ? "tile" : rank === 1 ? "row" : "scalar";
    return { kind: "read", storage: storage.id, at: at === "same" ? own : at };
  }

  /** x * causal mask as a selection: nothing above the diagonal can leak through. */
  private maskedProduct(op: MapOp, phase: Phase): Expr | null {
    if (op.fn !== "mul") return null;
    const [a, b] = op.args as [ValueId, ValueId];
    for (const [x, m] of [
      [a, b],
      [b, a],
    ] as const) {
      const mask = this.source.ops.get(m);
      if (mask?.kind === "block-mask" && this.rank(x) === 2) {
        return call("select", [inBlocks(mask), this.inline(x, phase).expr, constant(0)]);
      }
      if (mask?.kind !== "causal") continue;
      // Decays that several read, or every chunk, are computed once.
      const isOnce = this.uses.get(m) === 1 && !this.cells.has(m) && this.varies(m);
      if (!this.isTrivial(mask) && !isOnce) continue;
      const { expr } = this.inline(x, phase);
      const decay = this.decayBetween(mask, phase);
      const kept = decay === null ? expr : call("mul", [expr, call("exp", [decay])]);
      return call("select", [triangle(mask), kept, constant(0)]);
    }
    return null;
  }

  private mask(op: Causal, phase: Phase): Expr {
    const decay = this.decayBetween(op, phase);
    const kept = decay === null ? constant(1) : call("exp", [decay]);
    return call("select", [triangle(op), kept, constant(0)]);
  }

  /** The summed log decay from the token of the column to the token of the row. */
  private decayBetween(op: Causal, phase: Phase): Expr | null {
    const { logDecay: log, strict, reverse } = op;
    if (log === null) return null;
    const [row, col] = reverse ? [place("col"), place("row")] : [place("row"), place("col")];
    if (this.rank(log) === 0) {
      const steps = strict
        ? call("sub", [call("sub", [row, col]), constant(1)])
        : call("sub", [row, col]);
      const { storage } = this.materialize(log, phase);
      return call("mul", [this.readStorage(storage, "same"), steps]);
    }
    const between = (part: SumPart) => {
      const sum = (exclusive: boolean, at: Axis) => {
        return this.readStorage(this.partialSum(log, part, { reverse, exclusive }, phase), at);
      };
      return call("sub", [sum(strict, "row"), sum(false, "col")]);
    };
    return call("add", [between("coarse"), between("fine")]);
  }

  /**
   * Sums of a log decay that a mask's decays are differences of, in two parts (`SumPart`): the difference of whole
   * sums would keep no digits of a weak gate behind a strong one.
   */
  private partialSum(
    log: ValueId,
    part: SumPart,
    { reverse, exclusive }: SumDirection,
    phase: Phase,
  ): Storage {
    const key = `${log} ${part} ${reverse} ${exclusive}`;
    const known = this.partialSums.get(key);
    if (known) return known;
    const src = this.cleaned(log, [0], phase, 0).storage.id;
    const name = `log_decay_${part}${exclusive ? "_before" : ""}`;
    const storage = this.newStorage(name, this.typeOf(log), log);
    const how = { reverse, exclusive, block: null, part };
    this.emit(phase, this.noteOf(log), { kind: "cumsum", dst: storage.id, src, ...how });
    this.partialSums.set(key, storage);
    return storage;
  }

  /** The sums of a log decay whose parts a mask needs too, from these. */
  private joinedSums(op: CumSum, phase: Phase): Expr | null {
    const isMasked = [...this.source.ops.values()].some(
      (mask) => mask.kind === "causal" && mask.logDecay === op.arg && mask.reverse === op.reverse,
    );
    if (!isMasked || op.block !== null) return null;
    const parts = (["coarse", "fine"] as const).map((part) =>
      this.readStorage(this.partialSum(op.arg, part, op, phase), "same"),
    );
    return call("add", parts);
  }

  // --- padding ------------------------------------------------------------------------------

  private padding(id: ValueId): Padding[] {
    return this.cells.get(id)?.padding ?? this.expression(id, "body").padding;
  }

  /** Is the axis free of padding: a fixed size that fits the alignment? */
  private fits(id: ValueId, axis: number): boolean {
    const dim = this.typeOf(id).shape[axis]!;
    if (dim === chunkDim) return false;
    return this.extent(id, axis) === this.logicalSize(id, axis);
  }

  private logicalSize(id: ValueId, axis: number): number {
    const { cut } = this.source;
    const size = cut.sizeOf(this.typeOf(id).shape[axis]!);
    return cut.isCut(id, axis) && size % cut.block === 0 ? cut.block : size;
  }

  /** The value's cell, with `fill` in the padding of the given axes. */
  private cleaned(id: ValueId, axes: readonly number[], phase: Phase, fill: number): Cell {
    const cell = this.materialize(id, phase);
    const dirty = axes.filter(
      (axis) => !this.fits(id, axis) && (cell.padding[axis] !== "zero" || fill !== 0),
    );
    if (dirty.length === 0) return cell;
    // Where the tokens end depends on the chunk, so a value made before the loop is masked in a copy.
    const home = this.phaseOf(id, phase);
    const where = this.isTokenAxis(id, dirty) ? phase : home;
    if (fill === 0 && where === home) {
      this.maskInto(where, cell.storage, cell.storage, id, dirty, fill);
      for (const axis of dirty) cell.padding[axis] = "zero";
      return cell;
    }
    const key = `${id}:${dirty}:${fill}`;
    const known = this.masked.get(key);
    if (known) return known;
    const storage = this.newStorage(`${cell.storage.name}_masked`, this.typeOf(id), id);
    this.maskInto(where, storage, cell.storage, id, dirty, fill);
    const padding = cell.padding.map((p, i): Padding => (dirty.includes(i) ? "zero" : p));
    const masked = { storage, padding };
    this.masked.set(key, masked);
    return masked;
  }

  /** Cleans a carried state after its update. */
  private clean(id: ValueId, cell: Cell, phase: Phase): void {
    const dirty = cell.padding.flatMap((padding, axis) =>
      padding !== "zero" && !this.fits(id, axis) ? [axis] : [],
    );
    if (dirty.length > 0) this.maskInto(phase, cell.storage, cell.storage, id, dirty, 0);
  }

  private isTokenAxis(id: ValueId, axes: readonly number[]): boolean {
    return axes.some((axis) => this.typeOf(id).shape[axis] === chunkDim);
  }

  private maskInto(
    phase: Phase,
    dst: Storage,
    src: Storage,
    id: ValueId,
    axes: readonly number[],
    fill: number,
  ): void {
    let inside: Expr | null = null;
    for (const axis of axes) {
      const dim = this.typeOf(id).shape[axis]!;
      const test: Expr = {
        kind: "inside",
        axis: axis === 0 ? "row" : "col",
        start: this.start(id, axis),
        limit: dim === chunkDim ? tokenDim : this.source.cut.sizeOf(dim),
      };
      inside = inside ? call("mul", [inside, test]) : test;
    }
    const value = this.readStorage(src, "same");
    const masked = (x: Expr): Expr => call("select", [inside!, x, constant(fill)]);
    const last = this.phases[phase].at(-1);
    if (dst === src && last?.kind === "map" && last.dst === dst.id) {
      // Computed by the statement just before: mask it there.
      this.phases[phase].splice(-1, 1, { ...last, expr: masked(last.expr) });
      return;
    }
    this.emit(phase, this.noteOf(id), { kind: "map", dst: dst.id, expr: masked(value) });
  }

  /** Is a value, or what it adds to another, a product with a state? A product cannot replace its factor. */
  private multiplies(id: ValueId, state: ValueId): boolean {
    const op = this.source.ops.get(id);
    const product = op?.kind === "map" ? this.accumulated(op)?.[1] : op;
    if (product?.kind !== "matmul") return false;
    return [product.lhs, product.rhs].some((side) => this.factor(side).id === state);
  }

  // --- demand before a state changes --------------------------------------------------------

  /** Emits everything a carried value needs, short of the value itself. */
  private prepare(id: ValueId): void {
    const op = this.source.ops.get(id);
    if (!op || this.cells.has(id)) return;
    if (op.kind === "map") {
      const product = this.accumulated(op);
      if (product) {
        this.prepareProduct(product[1]);
        this.prepare(product[0]);
        return;
      }
      for (const arg of op.args) {
        if (this.rank(arg) < op.type.shape.length) {
          if (this.needsStorage(arg)) this.materialize(arg);
        } else if (this.canInline(arg, "body")) this.prepare(arg);
        else this.materialize(arg);
      }
      return;
    }
    if (op.kind === "matmul") return this.prepareProduct(op);
    // What a buffer holds is loaded where it is wanted.
    if (op.kind === "rows" && this.source.bufferOf(op.arg) !== null) return;
    for (const arg of operands(op)) this.materialize(arg);
  }

  private prepareProduct(op: MatMul): void {
    const [lhs, rhs] = [this.factor(op.lhs), this.factor(op.rhs)];
    if (this.rank(op.lhs) === 2 && this.rank(op.rhs) === 2) {
      this.agree([lhs.id, lhs.transposed ? 0 : 1], [rhs.id, rhs.transposed ? 1 : 0], "body");
      return;
    }
    this.materialize(lhs.id);
    this.materialize(rhs.id);
  }

  /** The states that computing `id` would still read. */
  private inlineReads(id: ValueId, into = new Set<ValueId>()): Set<ValueId> {
    if (this.source.params.some((param) => param.id === id)) into.add(id);
    const op = this.source.ops.get(id);
    if (op && !this.cells.has(id)) for (const arg of operands(op)) this.inlineReads(arg, into);
    return into;
  }

  // --- places -------------------------------------------------------------------------------

  private start(id: ValueId, axis: number): Index {
    const { cut } = this.source;
    const dim = this.typeOf(id).shape[axis]!;
    if (dim === chunkDim || dim === tokenDim) return { base: loopVariable, offset: 0 };
    return { base: cut.isCut(id, axis) ? cut.variable : null, offset: 0 };
  }

  /** Tokens of this chunk, fewer than C in the last one; for a scalar, whose own row is 0. */
  private tokensOfChunk(): Expr {
    const first: Index = { base: loopVariable, offset: 0 };
    const at: Expr = { kind: "index", axis: "row", start: first, global: false };
    const left = call("sub", [{ kind: "runtime", scalar: "T" }, at]);
    return call("min", [left, constant(this.source.cut.chunk)]);
  }

  private index(id: ValueId, axis: number, global: boolean): Expr {
    const place: Axis = axis === 0 ? "row" : "col";
    // An iota over the chunk counts within it.
    const isChunk = this.typeOf(id).shape[axis] === chunkDim;
    const start = isChunk && !global ? { base: null, offset: 0 } : this.start(id, axis);
    return { kind: "index", axis: place, start, global };
  }

  private viewOf(id: ValueId, param: string, phase: Phase): View {
    const none: Index = { base: null, offset: 0 };
    const rank = this.rank(id);
    // Of what is stored per piece a chunk gives the number as well as the piece's first token does.
    const token: Index = { base: phase === "body" ? loopVariable : pieceVariable, offset: 0 };
    return {
      param,
      ...(this.source.isPerChunk(param) && { token }),
      row: rank > 0 ? this.start(id, 0) : none,
      // Columns of a square are counted from the chunk's first token.
      col: rank > 1 && this.typeOf(id).shape[1] !== chunkDim ? this.start(id, 1) : none,
    };
  }

  /** Elements of an axis in its storage, padding included. */
  private extent(id: ValueId, axis: number): number {
    const { cut } = this.source;
    const dim = this.typeOf(id).shape[axis]!;
    const last = axis === this.rank(id) - 1;
    const align = last ? cut.alignCols : cut.alignRows;
    const size = dim === chunkDim ? cut.chunk : cut.isCut(id, axis) ? cut.block : cut.sizeOf(dim);
    return Math.max(1, Math.ceil(size / align)) * align;
  }

  private newStorage(name: string, type: TensorType, like: ValueId): Storage {
    const shape = type.shape.map((_, axis) => this.extent(like, axis));
    const base = name.replace(/[^A-Za-z0-9_]/g, "_");
    let unique = base;
    for (let n = 2; this.names.has(unique); n++) unique = `${base}_${n}`;
    this.names.add(unique);
    const storage: Storage = {
      id: this.storages.length as StorageId,
      name: unique,
      memory: shape.length === 1 ? "shared" : "register",
      dtype: "f32",
      shape,
      pad: 0,
    };
    this.storages.push(storage);
    return storage;
  }

  private emit(phase: Phase, note: string | null, stmt: DistributiveOmit<Stmt, "note">): void {
    this.phases[phase].push({ ...stmt, note } as Stmt);
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

/** What to call a value nobody named. */
function wordFor(op: Op): string {
  return op.kind === "map" ? op.fn : op.kind.replace("-", "_");
}

function bufferKey(op: Op): ValueId {
  return op.kind === "rows" ? op.arg : op.id;
}

/** Can the op be written as an expression of its operands' elements? */
function isExpression(op: Op): boolean {
  switch (op.kind) {
    case "const":
    case "dim-size":
    case "iota":
    case "rows":
    case "causal":
    case "block-mask":
    case "outer":
    case "map":
      return true;
    case "input":
    case "token-index":
    case "reduce":
    case "rotate-half":
    case "matmul":
    case "transpose":
    case "cumsum":
    case "solve":
    case "invert":
    case "scan":
    case "scan-state":
    case "delta":
    case "recurrence":
    case "chunks":
    case "result":
      return false;
    default:
      return assertNever(op);
  }
}

const cheapFns: ReadonlySet<MapFn> = new Set(["add", "sub", "mul", "floor", "select"]);

/** A bound that lets zeros be: what is zero in the padding stays so. */
const leavingZeros =
  (fn: MapFn) =>
  (argument: Written): Written => {
    const { expr } = argument;
    const isBound = (fn === "max" || fn === "min") && expr.kind === "const";
    return isBound && evaluateFn(fn, [0, expr.value]) === 0
      ? { expr, padding: ["zero", "zero"] }
      : argument;
  };

/** Above this the square of a reciprocal is an ordinary number in float32. */
const leastDivisor = 1e-18;

/** A number well above zero that is added to zeros, or bounds them below. */
function isAboveZeros(fn: MapFn, args: readonly Written[], axis: number): boolean {
  if (fn !== "add" && fn !== "max") return false;
  const isNumber = ({ expr }: Written) => expr.kind === "const" && expr.value >= leastDivisor;
  const isZero = ({ padding }: Written) => padding[axis] === "zero";
  return args.some(isNumber) && args.every((arg) => isNumber(arg) || isZero(arg));
}

/** What a mask of ones and zeros asks for. */
function conditionOf(mask: Expr): Expr {
  if (mask.kind !== "call" || mask.fn !== "select") return mask;
  const [condition, one, zero] = mask.args as [Expr, Expr, Expr];
  const isPlain =
    one.kind === "const" && one.value === 1 && zero.kind === "const" && zero.value === 0;
  return isPlain ? condition : mask;
}

function constant(value: number): Expr {
  return { kind: "const", value };
}

function call(fn: MapFn, args: readonly Expr[]): Expr {
  // A division costs many times a product, which is off by as little.
  const [x, by] = args;
  if (fn === "div" && by?.kind === "const") return call("mul", [x!, constant(1 / by.value)]);
  return { kind: "call", fn, args };
}

/** Row or column number within the tile. */
function place(axis: Axis): Expr {
  return { kind: "index", axis, start: { base: null, offset: 0 }, global: false };
}

function triangle({ strict, reverse }: Causal): Expr {
  const [late, early] = reverse ? [place("col"), place("row")] : [place("row"), place("col")];
  return call(strict ? "gt" : "ge", [late, early]);
}

/** Is the element on the diagonal, or does it lie in the square of a pair of blocks? */
function inBlocks({ block, reverse, within }: BlockMask): Expr {
  if (block === 0) return call("eq", [place("row"), place("col")]);
  const numbered = (axis: Axis, size: number) =>
    call("floor", [call("mul", [place(axis), constant(1 / size)])]);
  const [late, early] = reverse ? (["col", "row"] as const) : (["row", "col"] as const);
  const number = numbered(early, block);
  if (within) {
    const isBefore = call(within.strict ? "lt" : "le", [place(early), place(late)]);
    return call("mul", [call("eq", [numbered(late, block), number]), isBefore]);
  }
  const follows = call("eq", [numbered(late, block), call("add", [number, constant(1)])]);
  const isEven = call("eq", [number, call("mul", [numbered(early, 2 * block), constant(2)])]);
  return call("mul", [follows, isEven]);
}

/** A vector's expression, written along rows, read along `axis` of a tile. */
function orient(expr: Expr, axis: Axis): Expr {
  if (axis === "row") return expr;
  switch (expr.kind) {
    case "const":
    case "runtime":
      return expr;
    case "read":
      return expr.at === "row" ? { ...expr, at: "col" } : expr;
    case "index":
    case "inside":
      return { ...expr, axis: "col" };
    case "call":
      return { ...expr, args: expr.args.map((arg) => orient(arg, axis)) };
  }
}

function whole(storage: Storage) {
  const origin: Index = { base: null, offset: 0 };
  const [rows, cols] = storage.shape as [number, number];
  return { storage: storage.id, row: origin, col: origin, rows, cols };
}
