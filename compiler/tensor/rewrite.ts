/** Rebuilds a tensor program op by op; what every tensor pass is written with. */
import { CompilerBug } from "../support/never.ts";
import {
  type LoopOrigin,
  type Origin,
  type RegionBody,
  type RegionOwner,
  TensorBuilder,
} from "./build.ts";
import {
  type Chunks,
  type Op,
  type Output,
  type Program,
  type Recurrence,
  type Region,
  type Result,
  type ValueId,
  mapOperands,
  pieceOf,
} from "./ir.ts";

/** Copies ops of an old program into a builder, remembering which new value each old one became. */
export class Rewriter {
  readonly build: TensorBuilder;
  private readonly became = new Map<ValueId, ValueId>();
  private readonly owners = new Map<ValueId, RegionOwner>();

  constructor(program: Program) {
    this.build = new TensorBuilder(program.name, program.dims);
  }

  /** The new value of an old one. */
  get = (old: ValueId): ValueId => {
    const id = this.became.get(old);
    if (id === undefined) throw new CompilerBug(`value %${old} was not rebuilt`);
    return id;
  };

  has(old: ValueId): boolean {
    return this.became.has(old);
  }

  /** An op of the old program with its operands replaced by what they became. */
  mapped<O extends Op>(op: O): O {
    return mapOperands(op, this.get);
  }

  set(old: ValueId, now: ValueId): void {
    this.became.set(old, now);
  }

  /** Copies one op as it is, its operands replaced by what they became. */
  copy(op: Op): void {
    switch (op.kind) {
      case "recurrence":
      case "chunks":
        this.copyRegion(op);
        return;
      case "result":
        this.bindResult(op);
        return;
      default: {
        const { id, type, name, span, ...draft } = mapOperands(op, this.get);
        this.set(id, this.build.add(draft, { name, span }, type));
      }
    }
  }

  private copyRegion(op: Recurrence | Chunks): void {
    const states = op.region.params.map((param, i) => ({
      name: param.name,
      type: param.type,
      init: op.inits[i] === null ? null : this.get(op.inits[i]!),
    }));
    const owner = this.build.region(
      op.kind,
      states,
      op.reverse,
      (params) => {
        op.region.params.forEach((param, i) => this.set(param.id, params[i]!));
        for (const inner of op.region.ops) this.copy(inner);
        return { carries: op.carries.map(this.get), yields: op.yields.map(this.get) };
      },
      loopOriginOf(op),
    );
    this.set(op.id, owner.op);
    this.owners.set(op.id, owner);
  }

  private bindResult(op: Result): void {
    const owner = this.owners.get(op.of);
    if (!owner) throw new CompilerBug(`result %${op.id} has no owner`);
    this.set(op.id, resultOf(this.build, owner, op));
  }

  finish(outputs: readonly Output[]): Program {
    return this.build.finish(outputs.map((out) => ({ ...out, value: this.get(out.value) })));
  }
}

/** A chunk loop once more, with its states and what `body` carries and yields; `longest`: its chunks from now on. */
export function rebuildLoop(
  rewriter: Rewriter,
  op: Chunks,
  body: () => RegionBody,
  longest = op.longest,
): RegionOwner {
  const { build, get } = rewriter;
  const states = op.region.params.map((param, i) => ({
    name: param.name,
    type: param.type,
    init: op.inits[i] === null ? null : get(op.inits[i]!),
  }));
  const inside = (values: readonly ValueId[]) => {
    op.region.params.forEach((param, i) => rewriter.set(param.id, values[i]!));
    return body();
  };
  return build.region("chunks", states, op.reverse, inside, { ...loopOriginOf(op), longest });
}

export function originOf(op: Op): Origin {
  return { name: op.name, span: op.span };
}

export function loopOriginOf(op: Recurrence | Chunks): LoopOrigin {
  if (op.kind === "recurrence") return originOf(op);
  return { ...originOf(op), longest: op.longest, piece: op.piece };
}

/** What a result of a loop becomes when the loop is rebuilt; `index`: its new number there. */
export function resultOf(
  build: TensorBuilder,
  owner: RegionOwner,
  op: Result,
  index = op.index,
): ValueId {
  if (op.part === "checkpoint") {
    return build.checkpoint(owner.op, index, pieceOf(op.type.shape[0])!, originOf(op));
  }
  return (op.part === "yield" ? owner.yields : owner.carries)[index]!;
}

/** Every op by id, those inside regions too. */
export function indexOps(program: Program): Map<ValueId, Op> {
  const index = new Map<ValueId, Op>();
  const walk = (ops: readonly Op[]) => {
    for (const op of ops) {
      index.set(op.id, op);
      if (op.kind === "recurrence" || op.kind === "chunks") walk(op.region.ops);
    }
  };
  walk(program.ops);
  return index;
}

/** The outer values that a region's ops read. */
export function captured(region: Region): Set<ValueId> {
  const inside = new Set<ValueId>(region.params.map((param) => param.id));
  const outside = new Set<ValueId>();
  for (const op of region.ops) {
    mapOperands(op, (id) => {
      if (!inside.has(id)) outside.add(id);
      return id;
    });
    inside.add(op.id);
  }
  return outside;
}
