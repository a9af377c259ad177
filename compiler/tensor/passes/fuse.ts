/**
 * Fuse: everything that is computed per token moves into the chunk loops, and loops that can run
 * together become one. What is left is one loop for each kernel.
 *
 *   %kf = elu %k                         %loop = chunks (%S) {
 *   %loop = chunks (%S) {                  %kc = rows %k
 *     %kc = rows %kf                 =>    %kf = elu %kc
 *     ... yield %on                        ...
 *   }                                      %o = div %on, %d
 *   %r = result %loop, yield 0             yield %o
 *   %o = div %r, %d                      }
 *
 * A value of shape [T, ...] is computed where it is read, on the chunk's rows; it is recomputed in a
 * second loop rather than stored, unless it comes out of a loop itself. Loops are merged when none of
 * them needs what another has only at its end; those that do (no mask: the output needs the whole
 * state) stay apart, one kernel each.
 *
 * Needs: chunk. Guarantees: outside loops there are only inputs, values without a token axis, and
 * results; every per-token output is a yield. Source: the fused kernels of FLA and Lightning
 * Attention-2 (arXiv 2401.04658) are what this derives.
 */
import { CompilerBug } from "../../support/never.ts";
import type { Pass, Report } from "../../support/pass.ts";
import {
  type Chunks,
  type Op,
  type Program,
  type ValueId,
  chunkCountDim,
  chunkDim,
  mapOperands,
  operands,
  tokenDim,
} from "../ir.ts";
import { Rewriter, captured, indexOps, originOf, resultOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const fuse: Pass<Program> = {
  name: "fuse",
  summary: "move per-token code into the chunk loops and merge loops that can run together",
  run: (program, report) => {
    const stages = stagesOf(program);
    if (isFused(program, stages)) return program;
    return simplify.run(new Fuser(program, stages, report).run(), report);
  },
};

/**
 * The stage at which a value can be known. Loops from the first token on run at even stages, loops in
 * reverse at odd ones; what a loop has only at its end is known at the next stage.
 */
type Stages = ReadonlyMap<ValueId, number>;

function stagesOf(program: Program): Stages {
  const stages = new Map<ValueId, number>();
  /** Loops of one stage run in the same pieces. */
  const pieces = new Map<number, number | null>();
  for (const op of program.ops) {
    const reads = op.kind === "chunks" ? [...operands(op), ...captured(op.region)] : operands(op);
    let start = Math.max(0, ...reads.map((id) => stages.get(id)!));
    if (op.kind === "chunks") {
      // A loop over pieces begins anew at each, one over the whole sequence (null) does not.
      const fits = () =>
        (start % 2 === 1) === op.reverse && (!pieces.has(start) || pieces.get(start) === op.piece);
      while (!fits()) start++;
      pieces.set(start, op.piece);
    }
    const ended = op.kind === "result" && op.part === "carry" ? 1 : 0;
    stages.set(op.id, start + ended);
  }
  return stages;
}

/** Does a value have a part for each token, or for each chunk? */
function isPerToken(op: Op): boolean {
  return op.type.shape[0] === tokenDim || op.type.shape[0] === chunkCountDim;
}

/** Per-token values that exist without a loop. */
function isGiven(op: Op): boolean {
  return op.kind === "input" || op.kind === "token-index";
}

function isFused(program: Program, stages: Stages): boolean {
  const index = indexOps(program);
  const loops = program.ops.filter((op) => op.kind === "chunks");
  const alone = new Set(loops.map((op) => stages.get(op.id))).size === loops.length;
  const inside = program.ops.every((op) => !isPerToken(op) || isGiven(op) || op.kind === "result");
  return alone && inside && program.outputs.every((out) => !isBareInput(index.get(out.value)!));
}

/** An output that is an input must still be written by some kernel. */
function isBareInput(op: Op): boolean {
  return op.kind === "input" && isPerToken(op);
}

class Fuser {
  private readonly rewriter: Rewriter;
  private readonly index: ReadonlyMap<ValueId, Op>;
  private readonly program: Program;
  private readonly stages: Stages;
  private readonly report: Report;

  constructor(program: Program, stages: Stages, report: Report) {
    this.program = program;
    this.stages = stages;
    this.report = report;
    this.rewriter = new Rewriter(program);
    this.index = indexOps(program);
  }

  run(): Program {
    const last = Math.max(0, ...this.stages.values());
    for (let stage = 0; stage <= last; stage++) {
      for (const op of this.program.ops) {
        const whole = !isPerToken(op) || isGiven(op);
        const loop = op.kind === "chunks" || op.kind === "result";
        if (whole && !loop && this.stages.get(op.id) === stage) this.rewriter.copy(op);
      }
      this.mergeLoops(stage);
    }
    return this.rewriter.finish(this.program.outputs);
  }

  /** One loop out of all loops of a stage, with the per-token outputs of the stage. */
  private mergeLoops(stage: number): void {
    const loops = this.program.ops.filter(
      (op): op is Chunks => op.kind === "chunks" && this.stages.get(op.id) === stage,
    );
    const reverse = loops.some((loop) => loop.reverse);
    const wanted = this.wanted(stage, loops);
    if (loops.length === 0 && wanted.length === 0) return;
    const { build, get } = this.rewriter;
    const params = loops.flatMap((loop) => loop.region.params);
    const inits = loops.flatMap((loop) => loop.inits);
    const states = params.map((param, i) => ({
      name: param.name,
      type: param.type,
      init: inits[i] === null ? null : get(inits[i]!),
    }));
    const longest = loops.flatMap((loop) => (loop.longest === null ? [] : [loop.longest]));
    const origin = {
      longest: longest.length > 0 ? Math.min(...longest) : null,
      piece: loops[0]?.piece ?? null,
    };
    const inside = (values: readonly ValueId[]) => {
      params.forEach((param, i) => this.rewriter.set(param.id, values[i]!));
      const body = new Body(this.rewriter, this.index, loops);
      for (const loop of loops) body.inline(loop);
      return {
        carries: loops.flatMap((loop) => loop.carries).map((id) => body.get(id)),
        yields: wanted.map((op) => body.rows(op.id)),
      };
    };
    const owner = build.region("chunks", states, reverse, inside, origin);
    wanted.forEach((op, i) => this.rewriter.set(op.id, owner.yields[i]!));
    let first = 0;
    for (const loop of loops) {
      for (const op of this.program.ops) {
        if (op.kind !== "result" || op.of !== loop.id || op.part === "yield") continue;
        this.rewriter.set(op.id, resultOf(build, owner, op, first + op.index));
      }
      first += loop.carries.length;
    }
    const outputs = this.program.outputs;
    const names = wanted
      .map((op) => outputs.find((out) => out.value === op.id)?.label ?? op.name ?? "a workspace")
      .join(", ");
    const carried = [...new Set(params.map((param) => param.name))].join(", ");
    this.report.add({
      pass: "fuse",
      kind: "did",
      message:
        `one kernel ${carried ? `carries ${carried}` : "without a carried state"}` +
        (names ? ` and writes ${names}` : ""),
    });
  }

  /** Per-token values of this stage's loops that are outputs, or that a later stage's loop reads. */
  private wanted(stage: number, loops: readonly Chunks[]): Op[] {
    const mine = new Set(loops.map((loop) => loop.id));
    const outputs = new Set(this.program.outputs.map((out) => out.value));
    const laterReads = new Set<ValueId>();
    for (const op of this.program.ops) {
      if (this.stages.get(op.id) === stage) continue;
      const reads = op.kind === "chunks" ? captured(op.region) : operands(op);
      for (const id of reads) laterReads.add(id);
    }
    // What comes out of this stage's loops, as it is or through per-token code; the rest is recomputed.
    const made = new Set<ValueId>();
    for (const op of this.program.ops) {
      if (this.stages.get(op.id) !== stage || !isPerToken(op)) continue;
      const isMine = op.kind === "result" && mine.has(op.of);
      if (isMine || operands(op).some((id) => made.has(id))) made.add(op.id);
    }
    return this.program.ops.filter((op) => {
      if (!isPerToken(op) || this.stages.get(op.id) !== stage) return false;
      const isForeign = op.kind === "result" && !mine.has(op.of);
      if (outputs.has(op.id)) return !isForeign;
      return made.has(op.id) && laterReads.has(op.id);
    });
  }
}

/** The merged loop's body as it grows; `became` holds what is already computed on chunk rows. */
class Body {
  private readonly became = new Map<ValueId, ValueId>();
  private readonly yieldOf = new Map<ValueId, ValueId>();
  private readonly rewriter: Rewriter;
  private readonly index: ReadonlyMap<ValueId, Op>;

  constructor(rewriter: Rewriter, index: ReadonlyMap<ValueId, Op>, loops: readonly Chunks[]) {
    this.rewriter = rewriter;
    this.index = index;
    const byId = new Map(loops.map((loop) => [loop.id, loop]));
    for (const op of index.values()) {
      if (op.kind !== "result" || op.part !== "yield") continue;
      const loop = byId.get(op.of);
      if (loop) this.yieldOf.set(op.id, loop.yields[op.index]!);
    }
  }

  /** The new value of something in an inlined region, or outside of all loops. */
  get = (id: ValueId): ValueId => this.became.get(id) ?? this.rewriter.get(id);

  inline(loop: Chunks): void {
    for (const op of loop.region.ops) {
      if (op.kind === "rows") {
        this.became.set(op.id, this.rows(op.arg));
        continue;
      }
      const { id, type, name, span, ...draft } = mapOperands(op, this.get);
      this.became.set(id, this.rewriter.build.add(draft, { name, span }, type));
    }
  }

  /** The chunk's rows of a per-token value, computed here unless it is the caller's or was stored. */
  rows(id: ValueId): ValueId {
    const known = this.became.get(id);
    if (known !== undefined) return known;
    const value = this.localize(id);
    this.became.set(id, value);
    return value;
  }

  private localize(id: ValueId): ValueId {
    const { build } = this.rewriter;
    const op = this.index.get(id)!;
    const inner = this.yieldOf.get(id);
    if (inner !== undefined) return this.get(inner);
    const origin = originOf(op);
    // The caller's, or stored by an earlier stage.
    if (this.rewriter.has(id)) {
      return build.add({ kind: "rows", arg: this.rewriter.get(id) }, origin);
    }
    switch (op.kind) {
      case "const":
        return build.const(op.value, [chunkDim, ...op.type.shape.slice(1)], origin);
      case "chunks":
      case "recurrence":
        throw new CompilerBug(`fuse: a ${op.kind} has no rows`);
      default: {
        const at = (arg: ValueId) =>
          isPerToken(this.index.get(arg)!) ? this.rows(arg) : this.get(arg);
        const { id: _id, type: _type, name, span, ...draft } = mapOperands(op, at);
        return build.add(draft, { name, span });
      }
    }
  }
}
