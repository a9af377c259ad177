/** Makes tensor programs: gives ids, computes types, carries names and spans. Nothing else makes ops. */
import { CompilerBug } from "../support/never.ts";
import { type Span, noSpan } from "../support/span.ts";
import type {
  Dim,
  MapFn,
  Op,
  Output,
  Program,
  Region,
  RegionKind,
  RegionParam,
  TensorType,
  ValueId,
} from "./ir.ts";
import { chunkCountDim, chunkDim, pieceDim, tokenDim } from "./ir.ts";
import { type OpDraft, resultType, scalarType } from "./types.ts";

/** Where a value comes from: its name in the source, and the expression it was lowered from. */
export interface Origin {
  readonly name?: string | null;
  readonly span?: Span;
}

/** Also how long a loop's chunks may be, and the pieces it runs in. */
export interface LoopOrigin extends Origin {
  readonly longest?: number | null;
  readonly piece?: number | null;
}

/** What the body of a region gives back to its owner. */
export interface RegionBody {
  readonly carries: readonly ValueId[];
  readonly yields: readonly ValueId[];
}

export interface RegionOwner {
  readonly op: ValueId;
  /** One value per yield, stacked over T, then one per carry: its last value. */
  readonly yields: readonly ValueId[];
  readonly carries: readonly ValueId[];
}

export class TensorBuilder {
  private readonly types = new Map<ValueId, TensorType>();
  private readonly made = new Map<ValueId, Op>();
  private readonly scopes: { kind: RegionKind | null; ops: Op[] }[] = [{ kind: null, ops: [] }];
  private nextId: number;
  readonly name: string;
  readonly dims: ReadonlyMap<string, number | "runtime" | null>;

  constructor(name: string, dims: Program["dims"], firstId = 0) {
    this.name = name;
    this.dims = dims;
    this.nextId = firstId;
  }

  typeOf = (id: ValueId): TensorType => {
    const type = this.types.get(id);
    if (!type) throw new CompilerBug(`value %${id} is not defined in ${this.name}`);
    return type;
  };

  shapeOf(id: ValueId): readonly Dim[] {
    return this.typeOf(id).shape;
  }

  /** The op that made a value; null for a region's parameter. */
  opOf(id: ValueId): Op | null {
    return this.made.get(id) ?? null;
  }

  add(draft: OpDraft, origin: Origin = {}, given: TensorType | null = null): ValueId {
    const scope = this.scopes.at(-1)!;
    const type = resultType(draft, this.typeOf, scope.kind, given);
    const id = this.newId(type);
    const op = { ...draft, id, type, name: origin.name ?? null, span: origin.span ?? noSpan } as Op;
    scope.ops.push(op);
    this.made.set(id, op);
    return id;
  }

  /** `value` at every element of `shape`. */
  const(value: number, shape: readonly Dim[] = [], origin: Origin = {}): ValueId {
    return this.add({ kind: "const", value }, origin, { shape });
  }

  map(fn: MapFn, args: readonly ValueId[], origin: Origin = {}): ValueId {
    return this.add({ kind: "map", fn, args }, origin);
  }

  mul(a: ValueId, b: ValueId, origin: Origin = {}): ValueId {
    return this.map("mul", [a, b], origin);
  }

  matmul(lhs: ValueId, rhs: ValueId, origin: Origin = {}): ValueId {
    return this.add({ kind: "matmul", lhs, rhs }, origin);
  }

  transpose(arg: ValueId, origin: Origin = {}): ValueId {
    return this.add({ kind: "transpose", arg }, origin);
  }

  /**
   * A `recurrence` or `chunks` op. `states` give the carried values' names, types and first values
   * (null: zero); `body` builds the region and says what is carried and yielded.
   */
  region(
    kind: RegionKind,
    states: readonly { name: string; type: TensorType; init: ValueId | null }[],
    reverse: boolean,
    body: (params: readonly ValueId[]) => RegionBody,
    origin: LoopOrigin = {},
  ): RegionOwner {
    const params: RegionParam[] = states.map((state) => ({
      id: this.newId(state.type),
      name: state.name,
      type: state.type,
    }));
    const scope = { kind, ops: [] as Op[] };
    this.scopes.push(scope);
    const { carries, yields } = body(params.map((param) => param.id));
    this.scopes.pop();
    const region: Region = { params, ops: scope.ops };
    const inits = states.map((state) => state.init);
    const common = { reverse, inits, region, carries, yields };
    const draft: OpDraft =
      kind === "chunks"
        ? { kind, longest: origin.longest ?? null, piece: origin.piece ?? null, ...common }
        : { kind, ...common };
    const op = this.add(draft, origin, scalarType);
    const piece = (kind === "chunks" && origin.piece) || null;
    const stacked = (value: ValueId): Dim[] => {
      const shape = this.shapeOf(value);
      if (kind === "recurrence") return [tokenDim, ...shape];
      return shape[0] === chunkDim ? [tokenDim, ...shape.slice(1)] : [chunkCountDim, ...shape];
    };
    const originOf = (value: ValueId): Origin => {
      const param = params.find(({ id }) => id === value);
      return param ? { name: param.name } : nameOf(this.opOf(value));
    };
    return {
      op,
      yields: yields.map((value, index) =>
        this.add({ kind: "result", of: op, part: "yield", index }, originOf(value), {
          shape: stacked(value),
        }),
      ),
      carries: carries.map((value, index) =>
        this.add(
          { kind: "result", of: op, part: "carry", index },
          { name: states[index]!.name },
          { shape: [...(piece === null ? [] : [pieceDim(piece)]), ...this.shapeOf(value)] },
        ),
      ),
    };
  }

  /** The values of a carried state before each piece of `piece` tokens. */
  checkpoint(of: ValueId, index: number, piece: number, origin: Origin = {}): ValueId {
    const owner = this.opOf(of);
    if (owner?.kind !== "recurrence" && owner?.kind !== "chunks") {
      throw new CompilerBug("a checkpoint of no loop");
    }
    const { shape } = owner.region.params[index]!.type;
    const draft = { kind: "result", of, part: "checkpoint", index } as const;
    return this.add(draft, origin, { shape: [pieceDim(piece), ...shape] });
  }

  finish(outputs: readonly Output[]): Program {
    if (this.scopes.length !== 1) throw new CompilerBug("a region is still open");
    return { name: this.name, dims: this.dims, ops: this.scopes[0]!.ops, outputs };
  }

  private newId(type: TensorType): ValueId {
    const id = this.nextId++ as ValueId;
    this.types.set(id, type);
    return id;
  }
}

function nameOf(op: Op | null): Origin {
  return op ? { name: op.name, span: op.span } : {};
}
