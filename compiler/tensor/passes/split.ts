/**
 * Split: what a loop that carries states computes without them goes into a loop before it, and most of what
 * comes of the states into one behind; neither carries anything, so that their chunks run side by side.
 *
 *   %loop = chunks (%S = %S0) {              %before = chunks () {
 *     ...                                      ...
 *     %L = mul (%k @ %b^T), %mask              %L = mul (%k @ %b^T), %mask
 *     %rhs = add %v, (%k @ %S)                 %N = invert %L
 *     %w = solve %L, %rhs                      yield %N
 *     carry %S + %k^T @ %w           =>      }
 *     yield ...                              %loop = chunks (%S = %S0) {
 *   }                                          %N = rows %before
 *                                              %rhs = add %v, (%k @ %S)
 *                                              %w = add %rhs, (%N @ %rhs)
 *                                              carry %S + %k^T @ %w
 *                                              yield %S, %w
 *                                            }
 *                                            %behind = chunks () { ... rows %S, rows %w ... yield ... }
 *
 * What goes before: squares of a chunk that take products, triangles inverted, and folded vectors. They are small,
 * and what they are made of is read again rather than stored. Products with squares are scaled rather than these. A loop is cut behind where more than a few
 * products would stand beside those that carry the states on: its states before each chunk are stored then,
 * and what takes an inverse; the rest is computed again. A triangle is inverted once for all loops. Where chunks are too
 * short for that (decays of channels), gradients stay as they are.
 *
 * Needs: fuse, differentiate. Guarantees: the same values; as many loops with states as before.
 * Source: the kernels of DeltaNet (Yang et al., arXiv 2406.06484, section 3.2) and GLA (arXiv 2312.06635) are cut
 * like this by hand; loop distribution as in Kennedy and McKinley (1990).
 */
import type { Pass, Report } from "../../support/pass.ts";
import type { LoopOrigin, RegionOwner } from "../build.ts";
import { type Chunks, type Op, type Program, type ValueId, mapOperands, operands } from "../ir.ts";
import { Facts, isProduct, loopsOf, stateText } from "../loop-facts.ts";
import { bindResults, rewriteLoops } from "../rewrite-loops.ts";
import { Rewriter, loopOriginOf, originOf, rebuildLoop, resultOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

/** Products that one role can do beside those that carry the states on. */
const mostBeside = 3;
/** States are stored for chunks of so many tokens at least: for fewer they are more to move than all else. */
const fewestTokens = 64;

export const split: Pass<Program> = {
  name: "split",
  summary:
    "compute side by side what loops need no states for, or need them for once they are known",
  run: (program, report) => splitUp(program, report, false),
};

/** `keepsOutputs`: as `split-chain` does. */
export function splitUp(program: Program, report: Report, keepsOutputs: boolean): Program {
  const inverted = simplify.run(scaledAfter(withInverses(program)), report);
  const next = new Splitter(inverted, keepsOutputs).run();
  return next === null ? program : simplify.run(next, report);
}

// --- squares ----------------------------------------------------------------------------------

/** Solves become products with an inverse, where no state is needed for that. */
function withInverses(program: Program): Program {
  return rewriteLoops(program, (_loop, facts) => (op, { build, get }) => {
    const matrix = op.kind === "solve" ? facts.op(op.matrix) : undefined;
    if (op.kind !== "solve" || matrix === undefined) return null;
    const isTurned = matrix.kind === "transpose";
    const triangle = isTurned ? matrix.arg : matrix.id;
    if (isTurned !== op.upper || !facts.isFree(triangle)) return null;
    const inverse = build.add(
      { kind: "invert", arg: get(triangle) },
      { name: "inverse", span: op.span },
    );
    const factor = op.upper ? build.transpose(inverse, { span: op.span }) : inverse;
    const right = get(op.rhs);
    return build.map("add", [right, build.matmul(factor, right, originOf(op))], originOf(op));
  });
}

/** Products of squares that go before are scaled, not the squares: so gradients take those of the forward. */
function scaledAfter(program: Program): Program {
  return rewriteLoops(program, (_loop, facts) => (op, { build, get }) => {
    const left = op.kind === "matmul" ? facts.op(op.lhs) : undefined;
    if (op.kind !== "matmul" || left === undefined) return null;
    const scaled = left.kind === "transpose" ? facts.op(left.arg) : left;
    if (scaled?.kind !== "map" || scaled.fn !== "mul") return null;
    const [square, scale] = scaled.args as [ValueId, ValueId];
    const isBefore = facts.isSquare(square) && facts.takesProducts(square) && facts.isFree(square);
    if (!isBefore || facts.op(scale)?.kind !== "const") return null;
    const factor = left.kind === "transpose" ? build.transpose(get(square)) : get(square);
    const product = build.matmul(factor, get(op.rhs), originOf(op));
    return build.map("mul", [product, get(scale)], originOf(op));
  });
}

// --- the cut ------------------------------------------------------------------------------------

/** A value of a loop's body that is computed elsewhere, and the number that equal ones share. */
interface Wanted {
  readonly facts: Facts;
  readonly id: ValueId;
  readonly number: number;
}

/** How one loop is cut: values of its body that the loop before gives, and its yields that go behind. */
interface Cut {
  readonly facts: Facts;
  /** Values that the loop before computes. */
  readonly before: Set<ValueId>;
  /** Values that it stores for a loop behind. */
  readonly stored: Set<ValueId>;
  /** By number. */
  readonly behind: Set<number>;
}

class Splitter {
  private readonly program: Program;
  /** Does what only outputs need stay in the loop? */
  private readonly keepsOutputs: boolean;
  private readonly rewriter: Rewriter;
  private readonly cuts = new Map<ValueId, Cut>();
  private readonly numbers = new Map<string, number>();
  /** Is there a loop to be cut whose chunks are too short for that? */
  private isTooShort = false;
  /** What loops before gave, by the numbers of values. */
  private readonly made = new Map<number, ValueId>();
  /** What values of a loop's body became outside of it. */
  private readonly outside = new Map<ValueId, ValueId>();

  constructor(program: Program, keepsOutputs: boolean) {
    this.program = program;
    this.keepsOutputs = keepsOutputs;
    this.rewriter = new Rewriter(program);
  }

  /** null: nothing is worth it. */
  run(): Program | null {
    const carrying = loopsOf(this.program).filter((loop) => loop.region.params.length > 0);
    for (const loop of carrying) this.cut(loop);
    if (this.isTooShort) return null;
    for (const loop of carrying) this.shareInverses(loop);
    const cuts = [...this.cuts.values()];
    if (cuts.every(({ before, behind }) => before.size + behind.size === 0)) return null;
    const { rewriter } = this;
    const isReady = (op: Op) =>
      op.kind !== "chunks" && operands(op).every((id) => rewriter.has(id));
    // The loop before reads inputs that stand behind the first loop, such as cotangents.
    for (const op of this.program.ops) if (isReady(op)) rewriter.copy(op);
    for (const op of this.program.ops) {
      if (op.kind === "chunks") this.loop(op);
      else if (!rewriter.has(op.id)) rewriter.copy(op);
    }
    return rewriter.finish(this.program.outputs);
  }

  private cut(loop: Chunks): void {
    const facts = new Facts(this.program, loop);
    const chain = facts.slice(loop.carries);
    const products = (values: ReadonlySet<ValueId>) =>
      [...values].filter((id) => isProduct(facts.op(id)!) && !this.goesBefore(facts, id)).length;
    const rest = [...loop.yields.keys()].filter((i) => !chain.has(loop.yields[i]!));
    const beside = facts.slice(
      rest.map((i) => loop.yields[i]!),
      (id) => chain.has(id),
    );
    const isWide = products(beside) > mostBeside;
    this.isTooShort ||= isWide && (loop.longest ?? Infinity) < fewestTokens;
    const behind = new Set(isWide ? rest : []);
    const kept = loop.yields.filter((_, i) => !behind.has(i));
    const cut: Cut = { facts, before: new Set(), stored: new Set(), behind };
    this.cuts.set(loop.id, cut);
    const visit = (id: ValueId, seen: Set<ValueId>, where: "chain" | "beside" | "behind"): void => {
      if (seen.has(id)) return;
      seen.add(id);
      const isBefore =
        this.goesBefore(facts, id) &&
        (where === "chain" ||
          facts.takesInverse(id) ||
          (where === "beside" && this.isOfInverses(cut, id)));
      if (isBefore) cut.before.add(id);
      else if (where === "behind" && this.isKept(cut, id, chain)) cut.stored.add(id);
      else for (const arg of this.readsOf(facts, id)) visit(arg, seen, where);
    };
    const main = new Set<ValueId>();
    for (const id of loop.carries) visit(id, main, "chain");
    for (const id of kept) visit(id, main, this.keepsOutputs ? "beside" : "chain");
    const others = new Set<ValueId>();
    for (const i of behind) visit(loop.yields[i]!, others, "behind");
    // For vectors alone it is not worth a loop.
    if ([...cut.before].every((id) => facts.isVector(id))) cut.before.clear();
  }

  private readsOf(facts: Facts, id: ValueId): readonly ValueId[] {
    const op = facts.op(id);
    return op === undefined ? [] : operands(op);
  }

  /** Is a value made of inputs, small, and more work than reading it? */
  private goesBefore(facts: Facts, id: ValueId): boolean {
    // What is turned is read turned.
    const op = facts.op(id);
    if (op === undefined || op.kind === "transpose" || !facts.isFree(id)) return false;
    if (facts.isSquare(id)) return facts.takesProducts(id);
    return facts.isVector(id) && facts.takesFold(id);
  }

  /** Is a value of the loop stored for a loop behind, not computed there again? */
  private isKept({ facts }: Cut, id: ValueId, chain: ReadonlySet<ValueId>): boolean {
    const isState = facts.loop.region.params.some((param) => param.id === id);
    return isState || (chain.has(id) && facts.isSum(id) && facts.takesInverse(id));
  }

  /** A number that values of several loops share which are equal: a state, and what is stored of it, too. */
  private numberOf(facts: Facts, id: ValueId): number {
    return facts.number(id, this.numbers, (outer) => {
      const op = this.program.ops.find((one) => one.id === outer);
      if (op?.kind !== "result" || op.part !== "yield") return null;
      const owner = loopsOf(this.program).find((one) => one.id === op.of)!;
      const at = owner.region.params.findIndex((param) => param.id === owner.yields[op.index]);
      return at < 0 ? null : stateText(owner, at);
    });
  }

  /** What takes an inverse in this loop and is there in one before it is read from that. */
  private shareInverses(loop: Chunks): void {
    const cut = this.cuts.get(loop.id)!;
    const { facts, before, behind } = cut;
    const earlier = [...this.cuts.values()].filter(({ facts: other }) => other.loop.id < loop.id);
    const found = new Map<number, { cut: Cut; id: ValueId }>();
    for (const other of earlier) {
      for (const { id } of other.facts.loop.region.ops) {
        const number = this.numberOf(other.facts, id);
        const isOwn = other.facts.isCarried(id) && other.facts.isSum(id);
        if (isOwn && other.facts.takesInverse(id)) found.set(number, { cut: other, id });
      }
    }
    const seen = new Set<ValueId>();
    const visit = (id: ValueId): void => {
      if (seen.has(id) || before.has(id)) return;
      seen.add(id);
      const same = facts.isSum(id) ? found.get(this.numberOf(facts, id)) : undefined;
      if (same !== undefined) {
        same.cut.stored.add(same.id);
        this.sameAs.set(id, same.id);
      } else for (const arg of this.readsOf(facts, id)) visit(arg);
    };
    for (const i of behind) visit(loop.yields[i]!);
  }

  /** Values that one of an earlier loop is equal to. */
  private readonly sameAs = new Map<ValueId, ValueId>();

  // --- building ---------------------------------------------------------------------------------

  private loop(op: Chunks): void {
    const cut = this.cuts.get(op.id);
    const { rewriter } = this;
    if (cut === undefined) {
      const owner = rebuildLoop(rewriter, op, () => {
        for (const inner of op.region.ops) rewriter.copy(inner);
        return { carries: op.carries.map(rewriter.get), yields: op.yields.map(rewriter.get) };
      });
      return bindResults(rewriter, this.program, op, owner);
    }
    if (cut.before.size > 0) this.loopBefore(op);
    const kept = [...op.yields.keys()].filter((i) => !cut.behind.has(i));
    const stored = [...cut.stored].filter((id) => kept.every((i) => op.yields[i] !== id));
    const wanted = [...kept.map((i) => op.yields[i]!), ...stored];
    const ahead = this.keepsOutputs ? this.neededLater(op) : [];
    const owner = rebuildLoop(rewriter, op, () => {
      const body = this.body(op, cut.before);
      const others = new Map(
        ahead.map(({ facts }) => [facts, this.body(facts.loop, new Set(this.outside.keys()))]),
      );
      const later = ({ facts, id }: Wanted) => others.get(facts)!(id);
      return { carries: op.carries.map(body), yields: [...wanted.map(body), ...ahead.map(later)] };
    });
    ahead.forEach(({ number }, n) => this.made.set(number, owner.yields[wanted.length + n]!));
    const yields = new Map<number, ValueId>();
    kept.forEach((i, n) => {
      yields.set(i, owner.yields[n]!);
      this.outside.set(op.yields[i]!, owner.yields[n]!);
    });
    stored.forEach((id, n) => this.outside.set(id, owner.yields[kept.length + n]!));
    if (cut.behind.size > 0) {
      const numbers = [...cut.behind];
      const given = new Set([...cut.before, ...cut.stored, ...this.sameAs.keys()]);
      const behind = this.besides(op, () => {
        const body = this.body(op, given);
        return numbers.map((i) => body(op.yields[i]!));
      });
      numbers.forEach((i, n) => yields.set(i, behind.yields[n]!));
    }
    for (const result of this.program.ops) {
      if (result.kind !== "result" || result.of !== op.id) continue;
      const now =
        result.part === "yield"
          ? yields.get(result.index)!
          : resultOf(rewriter.build, owner, result);
      rewriter.set(result.id, now);
    }
  }

  /** What later loops need to carry their states on, that a role of this one computes beside its own. */
  private neededLater(op: Chunks): readonly Wanted[] {
    const found = new Map<number, Wanted>();
    for (const { facts, before } of this.cuts.values()) {
      if (facts.loop.id <= op.id || facts.loop.longest !== op.longest) continue;
      for (const id of before) {
        const number = this.numberOf(facts, id);
        const known = this.made.get(number);
        if (known !== undefined) this.outside.set(id, known);
        else if (!found.has(number)) found.set(number, { facts, id, number });
      }
    }
    return [...found.values()];
  }

  /**
   * The loop before, which the first loop that needs one makes for all of them. If outputs are kept, only for itself and for what
   * goes with inverses; the rest in a loop of its own, since what the forward has made it may have made alone.
   */
  private loopBefore(first: Chunks): void {
    const wanted = [...this.cuts.values()].flatMap((cut): Wanted[] => {
      const { facts, before } = cut;
      const isOwn = !this.keepsOutputs || facts.loop.id === first.id;
      const ids = [...before].filter((id) => isOwn || this.isOfInverses(cut, id));
      return ids.map((id) => ({ facts, id, number: this.numberOf(facts, id) }));
    });
    // What several loops need is computed once.
    const once = wanted.filter(
      ({ number }, n) =>
        !this.made.has(number) && wanted.findIndex((one) => one.number === number) === n,
    );
    const isOfInverses = ({ facts, id }: Wanted) =>
      this.isOfInverses(this.cuts.get(facts.loop.id)!, id);
    const groups = this.keepsOutputs
      ? [once.filter(isOfInverses), once.filter((one) => !isOfInverses(one))]
      : [once];
    for (const group of groups.filter(({ length }) => length > 0)) this.make(first, group);
    for (const { id, number } of wanted) this.outside.set(id, this.made.get(number)!);
  }

  /** A loop that computes values and carries nothing. */
  private make(first: Chunks, values: readonly Wanted[]): void {
    const loops = new Set(values.map(({ facts }) => facts));
    const longest = [...loops].flatMap(({ loop }) => loop.longest ?? []);
    const owner = this.besides(
      first,
      () => {
        const bodies = new Map([...loops].map((one) => [one, this.body(one.loop, new Set())]));
        return values.map(({ facts, id }) => bodies.get(facts)!(id));
      },
      { longest: longest.length > 0 ? Math.min(...longest) : null },
    );
    values.forEach(({ number }, at) => this.made.set(number, owner.yields[at]!));
  }

  /** Is it an inverse, or a vector of nothing but what inverses are made of? Then the loop that inverts can compute it too. */
  private isOfInverses({ facts, before }: Cut, id: ValueId): boolean {
    if (facts.takesInverse(id)) return true;
    const inverses = [...before].filter((one) => facts.takesInverse(one));
    const theirs = facts.leaves(inverses);
    return facts.isVector(id) && [...facts.leaves([id])].every((leaf) => theirs.has(leaf));
  }

  /** A loop that carries nothing. */
  private besides(op: Chunks, yields: () => ValueId[], origin: LoopOrigin = {}): RegionOwner {
    const { build } = this.rewriter;
    const body = () => ({ carries: [], yields: yields() });
    return build.region("chunks", [], op.reverse, body, { ...loopOriginOf(op), ...origin });
  }

  /** Computes values of a loop's body where it is called; those `given` are read. */
  private body(op: Chunks, given: ReadonlySet<ValueId>): (id: ValueId) => ValueId {
    const { rewriter } = this;
    const { build } = rewriter;
    const facts = this.cuts.get(op.id)!.facts;
    const local = new Map<ValueId, ValueId>();
    const get = (id: ValueId): ValueId => {
      const known = local.get(id);
      if (known !== undefined) return known;
      const made = make(id);
      local.set(id, made);
      return made;
    };
    const make = (id: ValueId): ValueId => {
      const inner = facts.op(id);
      if (given.has(id)) {
        const arg = this.outside.get(this.sameAs.get(id) ?? id)!;
        return build.add({ kind: "rows", arg }, inner ? originOf(inner) : {});
      }
      if (inner === undefined) return rewriter.get(id);
      const at = inner.kind === "rows" ? rewriter.get : get;
      const { id: _id, type, name, span, ...draft } = mapOperands(inner, at);
      return build.add(draft, { name, span }, type);
    };
    // In the body's own order, so that what it prints stays near its text.
    const needed = facts.slice([...op.carries, ...op.yields]);
    return (id) => {
      const own = facts.slice([id], (value) => given.has(value));
      for (const inner of op.region.ops) {
        if (own.has(inner.id) && needed.has(inner.id)) get(inner.id);
      }
      return get(id);
    };
  }
}
