/**
 * Simplify: equal ops and equal states become one, what nobody reads goes, and arithmetic that says
 * nothing is folded.
 *
 *   %a: f32[T, K] = mul %k, 1            (gone: %k is read instead)
 *   %b: f32[K, T] = transpose %k         %b: f32[K, T] = transpose %k
 *   %c: f32[K, T] = transpose %k    =>   (gone: %b is read instead)
 *   %d: f32[T, K] = transpose %b         (gone: %k is read instead)
 *
 * Guarantees: every value is used or is an output, and no two ops of a scope are equal. Folds only
 * what is exact in real arithmetic and keeps NaN and infinity: x * 1, x + 0, --x, constants.
 */
import type { Pass } from "../../support/pass.ts";
import { TensorBuilder } from "../build.ts";
import { evaluateFn } from "../functions.ts";
import {
  type Chunks,
  type Op,
  type Program,
  type Recurrence,
  type ValueId,
  mapOperands,
  operands,
} from "../ir.ts";
import { equalStates } from "../equal-states.ts";
import { loopOriginOf, originOf } from "../rewrite.ts";
import { sameShape } from "../types.ts";

export const simplify: Pass<Program> = {
  name: "simplify",
  summary: "merge equal ops, drop unused ones, fold arithmetic with constants",
  run: (program) => {
    const simplifier = new Simplifier(program);
    let next = simplifier.run();
    // What a fold no longer reads may be dead now.
    if (simplifier.folds > 0) next = new Simplifier(next).run();
    return simplifier.folds === 0 && countOps(next.ops) === countOps(program.ops) ? program : next;
  },
};

class Simplifier {
  folds = 0;
  private readonly became = new Map<ValueId, ValueId>();
  private readonly results = new Map<ValueId, { yields: ValueId[]; carries: ValueId[] }>();
  private readonly scopes: Map<string, ValueId>[] = [new Map()];
  private readonly build: TensorBuilder;
  private readonly live: ReadonlySet<ValueId>;
  private readonly program: Program;

  constructor(program: Program) {
    this.program = program;
    this.build = new TensorBuilder(program.name, program.dims);
    this.live = liveValues(program);
  }

  run(): Program {
    for (const op of this.program.ops) this.visit(op);
    return this.build.finish(
      this.program.outputs.map((out) => ({ ...out, value: this.get(out.value) })),
    );
  }

  private get = (old: ValueId): ValueId => this.became.get(old)!;

  private visit(op: Op): void {
    // Inputs are the signature: they stay even when unread, so that callers need not know the body.
    if (!this.live.has(op.id) && op.kind !== "input") return;
    if (op.kind === "recurrence" || op.kind === "chunks") return this.visitRegion(op);
    if (op.kind === "result") {
      const owner = this.results.get(op.of)!;
      const part = op.part === "yield" ? owner.yields : owner.carries;
      this.became.set(op.id, part[op.index]!);
      return;
    }
    const mapped = mapOperands(op, this.get);
    const folded = this.fold(mapped);
    if (folded !== null) {
      this.folds++;
      this.became.set(op.id, folded);
      return;
    }
    const { id: _id, type, name, span, ...draft } = mapped;
    const key = JSON.stringify([draft, type]);
    const known = this.scopes.map((scope) => scope.get(key)).find((value) => value !== undefined);
    if (known !== undefined) {
      this.became.set(op.id, known);
      return;
    }
    const id = this.build.add(draft, { name, span }, type);
    this.scopes.at(-1)!.set(key, id);
    this.became.set(op.id, id);
  }

  private visitRegion(op: Recurrence | Chunks): void {
    const params = op.region.params;
    const inits = op.inits.map((init) => (init === null ? null : this.get(init)));
    // Of states that start alike and are updated alike, the first is carried.
    const first = equalStates(op, inits);
    const kept = params.flatMap((_, i) => (first[i] === i ? [i] : []));
    const states = kept.map((i) => ({
      name: params[i]!.name,
      type: params[i]!.type,
      init: inits[i]!,
    }));
    const used = usedYields(op, this.program.ops, this.live);
    this.scopes.push(new Map());
    const owner = this.build.region(
      op.kind,
      states,
      op.reverse,
      (values) => {
        params.forEach((param, i) => this.became.set(param.id, values[kept.indexOf(first[i]!)]!));
        for (const inner of op.region.ops) this.visit(inner);
        const yields = op.yields.filter((_, i) => used.has(i)).map(this.get);
        return { carries: kept.map((i) => this.get(op.carries[i]!)), yields };
      },
      loopOriginOf(op),
    );
    this.scopes.pop();
    this.became.set(op.id, owner.op);
    const yields: ValueId[] = [];
    let next = 0;
    op.yields.forEach((_, i) => {
      if (used.has(i)) yields[i] = owner.yields[next++]!;
    });
    const carries = params.map((_, i) => owner.carries[kept.indexOf(first[i]!)]!);
    if (kept.length < params.length) this.folds++;
    this.results.set(op.id, { yields, carries });
  }

  /** The value that `op` equals already, or null. Operands are new ids. */
  private fold(op: Op): ValueId | null {
    const { build } = this;
    if (op.kind === "transpose") {
      const inner = build.opOf(op.arg);
      return inner?.kind === "transpose" ? inner.arg : null;
    }
    if (op.kind === "dim-size") {
      const size = build.dims.get(op.dim);
      return typeof size === "number" ? build.const(size, [], originOf(op)) : null;
    }
    if (op.kind !== "map") return null;
    const constants = op.args.map((arg) => constantOf(build.opOf(arg)));
    const same = (id: ValueId) => (sameShape(build.shapeOf(id), op.type.shape) ? id : null);
    if (constants.every((value) => value !== null)) {
      return build.const(evaluateFn(op.fn, constants), op.type.shape, originOf(op));
    }
    const [a, b] = op.args as [ValueId, ValueId];
    const [x, y] = constants;
    switch (op.fn) {
      case "mul":
        return y === 1 ? same(a) : x === 1 ? same(b) : null;
      case "div":
        return y === 1 ? same(a) : null;
      case "add":
        return y === 0 ? same(a) : x === 0 ? same(b) : null;
      case "sub":
        return y === 0 ? same(a) : null;
      case "pow":
        return y === 1 ? same(a) : null;
      case "neg": {
        const inner = build.opOf(a);
        return inner?.kind === "map" && inner.fn === "neg" ? inner.args[0]! : null;
      }
      default:
        return null;
    }
  }
}

function constantOf(op: Op | null): number | null {
  return op?.kind === "const" ? op.value : null;
}

/** Everything an output needs; a region owner's body counts with all it carries. */
function liveValues(program: Program): Set<ValueId> {
  const live = new Set<ValueId>(program.outputs.map((out) => out.value));
  const walk = (ops: readonly Op[]) => {
    for (const op of [...ops].reverse()) {
      if (!live.has(op.id)) continue;
      for (const id of operands(op)) live.add(id);
      if (op.kind !== "recurrence" && op.kind !== "chunks") continue;
      const used = usedYields(op, program.ops, live);
      for (const id of op.carries) live.add(id);
      op.yields.forEach((id, i) => used.has(i) && live.add(id));
      walk(op.region.ops);
    }
  };
  walk(program.ops);
  return live;
}

function usedYields(
  owner: Recurrence | Chunks,
  ops: readonly Op[],
  live: ReadonlySet<ValueId>,
): Set<number> {
  const used = new Set<number>();
  for (const op of ops) {
    if (op.kind !== "result" || op.of !== owner.id || op.part !== "yield") continue;
    if (live.has(op.id)) used.add(op.index);
  }
  return used;
}

function countOps(ops: readonly Op[]): number {
  let count = 0;
  for (const op of ops) {
    count++;
    if (op.kind === "recurrence" || op.kind === "chunks") {
      count += countOps(op.region.ops) + op.yields.length;
    }
  }
  return count;
}
