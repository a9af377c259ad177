/**
 * Differentiate: the gradient of every input, by reverse mode. The adjoint of a loop is a loop that runs
 * the other way and carries the cotangents of the states.
 *
 *   %loop = chunks (%S = %S0) {            %states = chunks (%S = %S0) { ... yield %S }      one sweep
 *     %qc = rows %q                        %back = chunks reverse (%dS = %d_final) {
 *     %o = matmul %qc, %S           =>       %S = rows %states        the state before the chunk
 *     %S' = ...                              ... the chunk once more, then its adjoint ...
 *     carry %S'   yield %o                   carry %dS before the chunk   yield %dq, ...
 *   }                                      }
 *
 * A program without states needs no sweep. What a loop computes is computed again in its adjoint, but for
 * the states at its start, which are stored once per chunk (per token in a recurrence). Values that all
 * tokens share gather their cotangents in a carried sum, so that gradients of constant decays, biases and
 * weights come out of the same loop.
 *
 * Inputs of the result: those of the program, `d_<output>` for each of its outputs, and what it kept. Outputs:
 * `d_<input>` for each input, summed over what the input is shared by (batch, heads) by whoever runs it.
 *
 * Works on loops (after fuse) for kernels, and on recurrences (`tokens.ts`) for the reference.
 * Guarantees: loops only where the program had them, twice as many at most; no pass order is assumed.
 * Source: reverse mode; the adjoint scan as in LASP, arXiv 2404.02882, and GLA, arXiv 2312.06635.
 */
import type { Pass } from "../../support/pass.ts";
import { type AdjointContext, addAdjoints } from "../adjoint.ts";
import type { RegionOwner, TensorBuilder } from "../build.ts";
import {
  type Chunks,
  type Input,
  type Op,
  type Output,
  type Program,
  type Recurrence,
  type Result,
  type ValueId,
  mapOperands,
  operands,
  pieceOf,
} from "../ir.ts";
import { Rewriter, captured, indexOps, loopOriginOf, originOf, resultOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const differentiate: Pass<Program> = {
  name: "differentiate",
  summary: "the gradient of every input: each loop's adjoint is a loop the other way",
  run: (program, report) => simplify.run(new Differentiator(sunk(program)).run(), report),
};

type Loop = Recurrence | Chunks;

/** States that the forward keeps are no results of the attention: they have no gradient. */
function isCache({ per }: Output): boolean {
  return per === "chunk";
}

function readsOf(op: Op): readonly ValueId[] {
  const isLoop = op.kind === "recurrence" || op.kind === "chunks";
  return isLoop ? [...operands(op), ...captured(op.region)] : operands(op);
}

class Differentiator {
  private readonly rewriter: Rewriter;
  private readonly index: ReadonlyMap<ValueId, Op>;
  private readonly active: ReadonlySet<ValueId>;
  /** Cotangents of forward values outside of loops. */
  private readonly cotangents = new Map<ValueId, ValueId>();
  /** The copied loops, with the states before each step as further yields. */
  private readonly sweeps = new Map<ValueId, RegionOwner>();
  /** What the forward kept for its gradient, as inputs. */
  private readonly caches = new Map<ValueId, ValueId>();
  private readonly program: Program;

  constructor(program: Program) {
    this.program = program;
    this.rewriter = new Rewriter(program);
    this.index = indexOps(program);
    this.active = activeValues(program);
  }

  run(): Program {
    const { program, rewriter } = this;
    for (const out of program.outputs) if (isCache(out)) this.cacheInput(out);
    for (const op of program.ops) this.copy(op);
    for (const out of program.outputs) {
      if (!isCache(out)) this.add(out.value, this.cotangentInput(out));
    }
    const context = this.context(this.rewriter.get, (id, value) => this.add(id, value));
    for (const op of [...program.ops].reverse()) {
      if (op.kind === "recurrence" || op.kind === "chunks") this.adjointLoop(op);
      else if (op.kind !== "result") {
        const cotangent = this.cotangents.get(op.id);
        if (cotangent !== undefined) addAdjoints(op, cotangent, context);
      }
    }
    const inputs = program.ops.filter((op): op is Input => op.kind === "input");
    return rewriter.build.finish(inputs.map((op) => this.gradient(op)));
  }

  private context(
    value: (id: ValueId) => ValueId,
    add: (id: ValueId, cotangent: ValueId) => void,
  ): AdjointContext {
    return {
      build: this.rewriter.build,
      opOf: (id) => this.index.get(id) ?? null,
      value,
      isActive: (id) => this.active.has(id),
      add,
    };
  }

  private gradient(op: Input): Output {
    const { build } = this.rewriter;
    const { label, per, dtype } = op;
    const name = `d_${label}`;
    const value = this.cotangents.get(op.id) ?? build.const(0, op.type.shape, { name });
    return { label: name, value, dtype, per };
  }

  private cacheInput({ label, value, dtype }: Output): void {
    const { build } = this.rewriter;
    const { type } = this.index.get(value)!;
    const draft = { kind: "input", label, per: "chunk", dtype, range: null } as const;
    this.caches.set(value, build.add(draft, { name: label }, type));
  }

  private cotangentInput({ label, value, dtype, per }: Output): ValueId {
    const name = `d_${label}`;
    const draft = { kind: "input", label: name, per, dtype, range: null } as const;
    return this.rewriter.build.add(draft, { name }, this.index.get(value)!.type);
  }

  private add(id: ValueId, cotangent: ValueId): void {
    const { build } = this.rewriter;
    const known = this.cotangents.get(id);
    const sum = known === undefined ? cotangent : build.map("add", [known, cotangent]);
    this.cotangents.set(id, sum);
  }

  // --- forwards -----------------------------------------------------------------------------

  private copy(op: Op): void {
    const { rewriter } = this;
    if (op.kind === "recurrence" || op.kind === "chunks") return this.sweep(op);
    // A checkpoint is what the forward kept: an input by now.
    if (op.kind === "result" && op.part === "checkpoint") return;
    const owner = op.kind === "result" ? this.sweeps.get(op.of) : undefined;
    if (op.kind === "result" && owner) rewriter.set(op.id, resultOf(rewriter.build, owner, op));
    else rewriter.copy(op);
  }

  /** The states that the forward kept of a loop: the inputs they are now, and every how many tokens. */
  private kept(op: Loop): { inits: ValueId[]; piece: number } | null {
    if (op.kind === "recurrence") return null;
    const results = this.program.ops.filter((other) => other.kind === "result");
    const mine = results.filter(({ of }) => of === op.id);
    const reads = new Set(this.program.ops.flatMap((other) => readsOf(other)));
    // Pieces have no last state of the whole sequence.
    if (mine.some(({ part, id }) => part === "carry" && reads.has(id))) return null;
    const inits = op.region.params.map((_, i) => {
      const found = mine.find(({ part, index }) => part === "checkpoint" && index === i);
      return found && this.caches.get(found.id);
    });
    const [first] = inits;
    if (first === undefined || inits.some((init) => init === undefined)) return null;
    const piece = pieceOf(this.rewriter.build.shapeOf(first)[0])!;
    return { inits: inits as ValueId[], piece };
  }

  /**
   * The loop as it is, with its states before each step as further yields. Where the forward kept states,
   * the pieces between them run side by side.
   */
  private sweep(op: Loop): void {
    const { rewriter } = this;
    const { build, get } = rewriter;
    const { params, ops } = op.region;
    const kept = this.kept(op);
    const states = params.map((param, i) => ({
      name: param.name,
      type: param.type,
      init: kept ? kept.inits[i]! : op.inits[i] === null ? null : get(op.inits[i]!),
    }));
    const origin = { ...loopOriginOf(op), ...(kept && { piece: kept.piece }) };
    const body = (values: readonly ValueId[]) => {
      params.forEach((param, i) => rewriter.set(param.id, values[i]!));
      for (const inner of ops) rewriter.copy(inner);
      return { carries: op.carries.map(get), yields: [...op.yields.map(get), ...values] };
    };
    this.sweeps.set(op.id, build.region(op.kind, states, op.reverse, body, origin));
  }

  // --- backwards ----------------------------------------------------------------------------

  private resultOf(op: Loop, part: Result["part"], index: number): ValueId[] {
    return this.program.ops.flatMap((other) =>
      other.kind === "result" &&
      other.of === op.id &&
      other.part === part &&
      other.index === index &&
      this.cotangents.has(other.id)
        ? [this.cotangents.get(other.id)!]
        : [],
    );
  }

  private adjointLoop(op: Loop): void {
    const { build } = this.rewriter;
    const { params } = op.region;
    const sum = (parts: readonly ValueId[]) =>
      parts.length === 0 ? null : parts.reduce((a, b) => build.map("add", [a, b]));
    const carried = params.map((_, i) => sum(this.resultOf(op, "carry", i)));
    const yielded = op.yields.map((_, i) => sum(this.resultOf(op, "yield", i)));
    if ([...carried, ...yielded].every((cotangent) => cotangent === null)) return;
    const rows = new Set(
      op.region.ops.flatMap((inner) => (inner.kind === "rows" ? [inner.arg] : [])),
    );
    const shared = [...captured(op.region)].filter((id) => !rows.has(id) && this.active.has(id));
    const nameOf = (id: ValueId) => this.index.get(id)?.name ?? "value";
    const states = [
      ...params.map((param, i) => ({
        name: `d_${param.name}`,
        type: param.type,
        init: carried[i]!,
      })),
      ...shared.map((id) => ({
        name: `d_${nameOf(id)}`,
        type: build.typeOf(this.rewriter.get(id)),
        init: null,
      })),
    ];
    const read: ValueId[] = [];
    const owner = build.region(
      op.kind,
      states,
      !op.reverse,
      (values) => {
        const step = new AdjointStep(build, op, this.forwardValues(op), (value, add) =>
          this.context(value, add),
        );
        yielded.forEach((cotangent, i) => {
          if (cotangent !== null) step.add(op.yields[i]!, step.rows(cotangent));
        });
        op.carries.forEach((id, i) => step.add(id, values[i]!));
        const perRow = step.run();
        read.push(...perRow.keys());
        const zero = (id: ValueId) => build.const(0, build.shapeOf(id));
        const sums = shared.map((id, i) => {
          const acc = values[params.length + i]!;
          const more = step.cotangentOf(id);
          return more === null ? acc : build.map("add", [acc, more]);
        });
        return {
          carries: [
            ...params.map((param, i) => step.cotangentOf(param.id) ?? zero(values[i]!)),
            ...sums,
          ],
          yields: [...perRow.values()],
        };
      },
      loopOriginOf(op),
    );
    read.forEach((id, i) => this.add(id, owner.yields[i]!));
    op.inits.forEach((init, i) => {
      if (init !== null && this.active.has(init)) this.add(init, owner.carries[i]!);
    });
    shared.forEach((id, i) => this.add(id, owner.carries[params.length + i]!));
  }

  /** Where the adjoint step finds what the loop read: new outer values, and the stored states. */
  private forwardValues(op: Loop): ForwardValues {
    const sweep = this.sweeps.get(op.id)!;
    const stacks = new Map(
      op.region.params.map((param, i) => [param.id, sweep.yields[op.yields.length + i]!]),
    );
    return { outer: this.rewriter.get, stacks };
  }
}

interface ForwardValues {
  readonly outer: (id: ValueId) => ValueId;
  /** For each carried state, its values before each step, stacked. */
  readonly stacks: ReadonlyMap<ValueId, ValueId>;
}

/** One step of an adjoint loop: the forward step once more, then backwards through it. */
class AdjointStep {
  private readonly became = new Map<ValueId, ValueId>();
  private readonly cotangents = new Map<ValueId, ValueId>();
  private readonly context: AdjointContext;
  private readonly build: TensorBuilder;
  private readonly op: Loop;
  private readonly forward: ForwardValues;

  constructor(
    build: TensorBuilder,
    op: Loop,
    forward: ForwardValues,
    contextOf: (
      value: (id: ValueId) => ValueId,
      add: (id: ValueId, cotangent: ValueId) => void,
    ) => AdjointContext,
  ) {
    this.build = build;
    this.op = op;
    this.forward = forward;
    this.context = contextOf(this.value, (id, cotangent) => this.add(id, cotangent));
    for (const [id, stack] of forward.stacks) this.became.set(id, this.rows(stack));
    for (const inner of op.region.ops) {
      if (inner.kind === "rows") {
        const arg = forward.outer(inner.arg);
        this.became.set(inner.id, build.add({ kind: "rows", arg }, originOf(inner)));
        continue;
      }
      const { id, type, name, span, ...draft } = mapOperands(inner, this.value);
      this.became.set(id, build.add(draft, { name, span }, type));
    }
  }

  private value = (id: ValueId): ValueId => this.became.get(id) ?? this.forward.outer(id);

  rows(arg: ValueId): ValueId {
    return this.build.add({ kind: "rows", arg }, { name: this.build.opOf(arg)?.name ?? null });
  }

  add(id: ValueId, cotangent: ValueId): void {
    const known = this.cotangents.get(id);
    const sum = known === undefined ? cotangent : this.build.map("add", [known, cotangent]);
    this.cotangents.set(id, sum);
  }

  cotangentOf(id: ValueId): ValueId | null {
    return this.cotangents.get(id) ?? null;
  }

  /** Goes backwards through the step; gives the cotangents of what it read row by row. */
  run(): Map<ValueId, ValueId> {
    const perRow = new Map<ValueId, ValueId>();
    for (const inner of [...this.op.region.ops].reverse()) {
      const cotangent = this.cotangents.get(inner.id);
      if (cotangent === undefined) continue;
      if (inner.kind !== "rows") {
        addAdjoints(inner, cotangent, this.context);
        continue;
      }
      if (!this.context.isActive(inner.arg)) continue;
      const known = perRow.get(inner.arg);
      const sum = known === undefined ? cotangent : this.build.map("add", [known, cotangent]);
      perRow.set(inner.arg, sum);
    }
    return perRow;
  }
}

/** Everything that depends on an input; states always do. */
function activeValues(program: Program): Set<ValueId> {
  const active = new Set<ValueId>();
  const visit = (ops: readonly Op[]) => {
    for (const op of ops) {
      if (op.kind === "recurrence" || op.kind === "chunks") {
        for (const param of op.region.params) active.add(param.id);
        visit(op.region.ops);
      }
      const isLeaf = op.kind === "input" || op.kind === "result";
      if (isLeaf || operands(op).some((id) => active.has(id))) active.add(op.id);
    }
  };
  visit(program.ops);
  return active;
}

/**
 * What loops read that does not change from chunk to chunk is computed inside them, from inputs and
 * results: so that gradients of inputs, not of such values, are what a loop sums up.
 */
function sunk(program: Program): Program {
  const index = indexOps(program);
  const isLeaf = (op: Op) =>
    op.kind === "input" || op.kind === "result" || op.kind === "token-index";
  const rewriter = new Rewriter(program);
  for (const op of program.ops) {
    if (op.kind !== "chunks") {
      if (!rewriter.has(op.id)) rewriter.copy(op);
      continue;
    }
    const { build, get } = rewriter;
    const { params, ops } = op.region;
    const states = params.map((param, i) => ({
      name: param.name,
      type: param.type,
      init: op.inits[i] === null ? null : get(op.inits[i]!),
    }));
    const body = (values: readonly ValueId[]) => {
      const inside = new Map<ValueId, ValueId>();
      params.forEach((param, i) => inside.set(param.id, values[i]!));
      const local = (id: ValueId): ValueId => {
        const known = inside.get(id);
        if (known !== undefined) return known;
        const outer = index.get(id)!;
        if (isLeaf(outer)) return get(id);
        const { id: _id, type, name, span, ...draft } = mapOperands(outer, local);
        const made = build.add(draft, { name, span }, type);
        inside.set(id, made);
        return made;
      };
      for (const inner of ops) {
        const at = inner.kind === "rows" ? get : local;
        const { id, type, name, span, ...draft } = mapOperands(inner, at);
        inside.set(id, build.add(draft, { name, span }, type));
      }
      return { carries: op.carries.map(local), yields: op.yields.map(local) };
    };
    const owner = build.region("chunks", states, op.reverse, body, loopOriginOf(op));
    for (const result of program.ops) {
      if (result.kind !== "result" || result.of !== op.id) continue;
      rewriter.set(result.id, resultOf(build, owner, result));
    }
    rewriter.set(op.id, owner.op);
  }
  return rewriter.finish(program.outputs);
}
