/**
 * Unstack: what needs a state before each chunk, and nothing that comes back from later tokens, is computed in the
 * loop that carries the state, not from states that were stored.
 *
 *   chunks (%S = %S0) {                        chunks (%S = %S0) {
 *     ... carry %S'   yield %S                   %d_oc = rows %d_o
 *   } = %loop                                    %d_q = matmul %d_oc, (transpose %S)
 *   %states = result %loop               =>      ... carry %S'   yield %d_q
 *   chunks reverse (%d_S = %d_final) {         }
 *     %S = rows %states                        chunks reverse (%d_S = %d_final) {
 *     %d_q = matmul %d_oc, (transpose %S)        ... carry %d_S'   yield %d_k, %d_v
 *     ... carry %d_S'   yield %d_q, %d_k, %d_v }
 *   }
 *
 * So gradients are two sweeps with about as much work each, as in LASP (arXiv 2404.02882) and Lightning Attention-2
 * (arXiv 2401.04658). The gradient of a decay needs states and their cotangents at once; then nothing changes.
 *
 * Needs: differentiate, fuse. Guarantees: the same values. Done where no stored state is left to read.
 */
import type { Pass } from "../../support/pass.ts";
import { type Chunks, type Op, type Program, type ValueId, mapOperands, operands } from "../ir.ts";
import type { RegionOwner } from "../build.ts";
import { Rewriter, rebuildLoop, resultOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const unstack: Pass<Program> = {
  name: "unstack",
  summary: "compute what needs states alone where they are carried, not from stored ones",
  run: (program, report) => {
    const move = moveIn(program);
    return move === null ? program : simplify.run(new Mover(program, move).run(), report);
  },
};

/** Values of one loop that another, earlier one can compute. */
interface Move {
  readonly from: Chunks;
  readonly to: Chunks;
  /** Yields by number. */
  readonly yields: ReadonlySet<number>;
  /** Values of `from` that are states of `to`: what it reads of the stacked ones. */
  readonly states: ReadonlyMap<ValueId, ValueId>;
}

function moveIn(program: Program): Move | null {
  const loops = program.ops.filter((op): op is Chunks => op.kind === "chunks");
  for (const from of loops) {
    for (const to of loops.slice(0, loops.indexOf(from))) {
      const move = moveBetween(program, from, to);
      if (move !== null) return move;
    }
  }
  return null;
}

function moveBetween(program: Program, from: Chunks, to: Chunks): Move | null {
  if (from.piece !== null || to.piece !== null) return null;
  const outer = new Map(program.ops.map((op) => [op.id, op]));
  const ops = new Map(from.region.ops.map((op) => [op.id, op]));
  const states = new Map<ValueId, ValueId>();
  for (const op of from.region.ops) {
    const source = op.kind === "rows" ? outer.get(op.arg) : undefined;
    if (source?.kind !== "result" || source.of !== to.id || source.part !== "yield") continue;
    const param = to.region.params.find(({ id }) => id === to.yields[source.index]);
    if (param) states.set(op.id, param.id);
  }
  const needsOf = (id: ValueId, seen = new Set<ValueId>()): Set<ValueId> => {
    if (seen.has(id)) return seen;
    seen.add(id);
    const op = ops.get(id);
    if (op !== undefined && op.kind !== "rows") for (const arg of operands(op)) needsOf(arg, seen);
    return seen;
  };
  const isGiven = (id: ValueId) => {
    const op = ops.get(id);
    const source = op === undefined ? outer.get(id) : op.kind === "rows" ? outer.get(op.arg) : null;
    return source === null || states.has(id) || (source !== undefined && source.kind !== "result");
  };
  const needsState = (id: ValueId) => [...needsOf(id)].some((one) => states.has(one));
  const isMovable = (id: ValueId) => needsState(id) && [...needsOf(id)].every(isGiven);
  const yields = new Set([...from.yields.keys()].filter((i) => isMovable(from.yields[i]!)));
  const stay = [...from.carries, ...from.yields.filter((_, i) => !yields.has(i))];
  return yields.size > 0 && !stay.some(needsState) ? { from, to, yields, states } : null;
}

class Mover {
  private readonly rewriter: Rewriter;
  private readonly program: Program;
  private readonly move: Move;
  /** What values of `from` became in `to`, outside of its region. */
  private readonly outside = new Map<ValueId, ValueId>();

  constructor(program: Program, move: Move) {
    this.program = program;
    this.move = move;
    this.rewriter = new Rewriter(program);
  }

  run(): Program {
    const { program, rewriter, move } = this;
    // What moves reads inputs that stood behind the loop it moves to.
    for (const op of program.ops) if (op.kind === "input") rewriter.copy(op);
    for (const op of program.ops) {
      if (rewriter.has(op.id)) continue;
      if (op === move.to) this.to(op);
      else if (op === move.from) this.from(op);
      else rewriter.copy(op);
    }
    return rewriter.finish(program.outputs);
  }

  private to(op: Chunks): void {
    const { from, yields } = this.move;
    const more = [...yields].map((i) => from.yields[i]!);
    const bounds = [from.longest, op.longest].filter((one) => one !== null);
    const longest = bounds.length > 0 ? Math.min(...bounds) : null;
    const { get } = this.rewriter;
    const body = () => {
      for (const inner of op.region.ops) this.rewriter.copy(inner);
      const made = this.body();
      return { carries: op.carries.map(get), yields: [...op.yields.map(get), ...more.map(made)] };
    };
    const owner = rebuildLoop(this.rewriter, op, body, longest);
    more.forEach((id, n) => this.outside.set(id, owner.yields[op.yields.length + n]!));
    this.bind(op, owner, (index) => owner.yields[index]!);
  }

  private from(op: Chunks): void {
    const { rewriter } = this;
    const { yields } = this.move;
    const kept = [...op.yields.keys()].filter((i) => !yields.has(i));
    const owner = rebuildLoop(rewriter, op, () => {
      for (const inner of op.region.ops) rewriter.copy(inner);
      return {
        carries: op.carries.map(rewriter.get),
        yields: kept.map((i) => rewriter.get(op.yields[i]!)),
      };
    });
    this.bind(op, owner, (index) =>
      yields.has(index) ? this.outside.get(op.yields[index]!)! : owner.yields[kept.indexOf(index)]!,
    );
  }

  private bind(op: Chunks, owner: RegionOwner, yieldOf: (index: number) => ValueId): void {
    const { rewriter } = this;
    for (const result of this.program.ops) {
      if (result.kind !== "result" || result.of !== op.id) continue;
      const now =
        result.part === "yield" ? yieldOf(result.index) : resultOf(rewriter.build, owner, result);
      rewriter.set(result.id, now);
    }
    rewriter.set(op.id, owner.op);
  }

  /** Computes values of `from` in `to`. */
  private body(): (id: ValueId) => ValueId {
    const { build, get } = this.rewriter;
    const { from, states } = this.move;
    const ops = new Map(from.region.ops.map((op) => [op.id, op]));
    const local = new Map<ValueId, ValueId>();
    const copied = (op: Op): ValueId => {
      const {
        id: _id,
        type,
        name,
        span,
        ...draft
      } = mapOperands(op, op.kind === "rows" ? get : made);
      return build.add(draft, { name, span }, type);
    };
    const made = (id: ValueId): ValueId => {
      const known = local.get(id);
      if (known !== undefined) return known;
      const state = states.get(id);
      const op = ops.get(id);
      const now = state !== undefined || op === undefined ? get(state ?? id) : copied(op);
      local.set(id, now);
      return now;
    };
    return made;
  }
}
