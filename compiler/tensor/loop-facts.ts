/** What values in the body of a chunk loop depend on: what passes that cut loops ask. */
import {
  type Chunks,
  type Op,
  type Program,
  type ValueId,
  chunkDim,
  mapOperands,
  operands,
} from "./ir.ts";
import { indexOps } from "./rewrite.ts";

export function loopsOf(program: Program): readonly Chunks[] {
  return program.ops.filter((op): op is Chunks => op.kind === "chunks");
}

type StateOf = (outer: ValueId) => string | null;

export function stateText(loop: Chunks, index: number): string {
  return `state ${loop.id} ${index}`;
}

/** What the values of one loop depend on. */
export class Facts {
  readonly loop: Chunks;
  private readonly ops: ReadonlyMap<ValueId, Op>;
  private readonly outer: ReadonlyMap<ValueId, Op>;
  private readonly memo = new Map<string, boolean>();
  private readonly keys = new Map<ValueId, number>();

  constructor(program: Program, loop: Chunks) {
    this.loop = loop;
    this.ops = new Map(loop.region.ops.map((op) => [op.id, op]));
    this.outer = indexOps(program);
  }

  /** An op of the loop's body; undefined for states and what stands outside. */
  op = (id: ValueId): Op | undefined => this.ops.get(id);

  private some(what: string, id: ValueId, test: (id: ValueId) => boolean | null): boolean {
    const key = `${what} ${id}`;
    const known = this.memo.get(key);
    if (known !== undefined) return known;
    const op = this.ops.get(id);
    const found =
      test(id) ?? (op !== undefined && operands(op).some((arg) => this.some(what, arg, test)));
    this.memo.set(key, found);
    return found;
  }

  /** Does a value depend on the carried states? */
  isCarried(id: ValueId): boolean {
    return this.some("carried", id, (at) =>
      this.loop.region.params.some((param) => param.id === at) ? true : null,
    );
  }

  /** Can a value be known before any loop with states has run? */
  isFree(id: ValueId): boolean {
    return !this.some("bound", id, (at) => {
      if (this.loop.region.params.some((param) => param.id === at)) return true;
      const op = this.ops.get(at);
      const source = op === undefined ? at : op.kind === "rows" ? op.arg : null;
      if (source === null) return null;
      const given = this.outer.get(source)!;
      return given.kind === "result" || given.type.shape.length > 2;
    });
  }

  private takes(what: string, id: ValueId, test: (op: Op) => boolean): boolean {
    return this.some(what, id, (at) => {
      const op = this.ops.get(at);
      return op !== undefined && test(op) ? true : null;
    });
  }

  takesProducts(id: ValueId): boolean {
    return this.takes("product", id, isProduct);
  }

  takesInverse(id: ValueId): boolean {
    return this.takes("inverse", id, ({ kind }) => kind === "invert");
  }

  takesFold(id: ValueId): boolean {
    return this.takes("fold", id, ({ kind }) => kind === "reduce" || kind === "cumsum");
  }

  shape(id: ValueId) {
    return this.ops.get(id)?.type.shape ?? [];
  }

  isSquare(id: ValueId): boolean {
    const [rows, cols] = this.shape(id);
    return rows === chunkDim && cols === chunkDim;
  }

  isVector(id: ValueId): boolean {
    return this.shape(id).length === 1 && this.shape(id)[0] === chunkDim;
  }

  /** A product, or what one is added to. */
  isSum(id: ValueId): boolean {
    const op = this.ops.get(id);
    if (op === undefined) return false;
    if (isProduct(op)) return true;
    return op.kind === "map" && op.fn === "add" && op.args.some((arg) => this.isProduct(arg));
  }

  private isProduct(id: ValueId): boolean {
    const op = this.ops.get(id);
    return op !== undefined && isProduct(op);
  }

  /** The ops that values depend on, short of those `given`. */
  slice(values: readonly ValueId[], given: (id: ValueId) => boolean = () => false): Set<ValueId> {
    const found = new Set<ValueId>();
    const visit = (id: ValueId) => {
      const op = this.ops.get(id);
      if (op === undefined || found.has(id) || given(id)) return;
      found.add(id);
      operands(op).forEach(visit);
    };
    values.forEach(visit);
    return found;
  }

  /** What of outside of the loop values are made of. */
  leaves(values: readonly ValueId[]): Set<ValueId> {
    const found = new Set<ValueId>();
    for (const id of this.slice(values)) {
      for (const arg of operands(this.ops.get(id)!)) if (!this.ops.has(arg)) found.add(arg);
    }
    return found;
  }

  /** A number that equal values of all loops share; `stateOf`: the state that a stacked value is of, in words. */
  number(id: ValueId, numbers: Map<string, number>, stateOf: StateOf): number {
    const known = this.keys.get(id);
    if (known !== undefined) return known;
    const text = this.text(id, numbers, stateOf);
    const number = numbers.get(text) ?? numbers.size;
    numbers.set(text, number);
    this.keys.set(id, number);
    return number;
  }

  private text(id: ValueId, numbers: Map<string, number>, stateOf: StateOf): string {
    const at = this.loop.region.params.findIndex((param) => param.id === id);
    const op = this.ops.get(id);
    if (at >= 0) return stateText(this.loop, at);
    if (op === undefined) return `%${id}`;
    if (op.kind === "rows") return stateOf(op.arg) ?? `rows %${op.arg}`;
    const { id: _id, name: _name, span: _span, ...own } = mapOperands(op, () => -1 as ValueId);
    return JSON.stringify([own, operands(op).map((arg) => this.number(arg, numbers, stateOf))]);
  }
}

export function isProduct(op: Op): boolean {
  return op.kind === "matmul" && op.type.shape.length === 2;
}
