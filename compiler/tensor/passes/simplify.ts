/**
 * Simplify: equal ops and equal states become one, what nobody reads goes, and arithmetic that says
 * nothing is folded.
 *
 *   %a: f32[T, K] = mul %k, 1            (gone: %k is read instead)
 *   %b: f32[K, T] = transpose %k         %b: f32[K, T] = transpose %k
 *   %c: f32[K, T] = transpose %k    =>   (gone: %b is read instead)
 *   %d: f32[T, K] = transpose %b         (gone: %k is read instead)
 *
 *   %e: f32[T, K] = mul %x, %d           %e: f32[T, K] = mul %x, %d
 *   %f: f32[T, K] = mul %x, %k           %g: f32[T, K] = mul %e, %k
 *   %g: f32[T, K] = mul %f, %d
 *
 * Guarantees: every value is used or is an output, and no two ops of a scope are equal. Folds only
 * what is exact in real arithmetic and keeps NaN and infinity: x * 1, x + 0, --x, constants; log exp(x) and
 * log sigmoid(x) = -softplus(-x), which hold where exp and sigmoid leave the range of a number. Numbers
 * that scale a loaded factor of a product go where something is computed anyway, and of three factors those
 * are multiplied first whose product is there: a factor and its decay, which gradients of both have.
 */
import type { Pass } from "../../support/pass.ts";
import { type RegionOwner, TensorBuilder } from "../build.ts";
import { evaluateFn } from "../functions.ts";
import {
  type Chunks,
  type MatMul,
  type Op,
  type Program,
  type Recurrence,
  type Result,
  type ValueId,
  mapOperands,
  operands,
} from "../ir.ts";
import { equalStates } from "../equal-states.ts";
import { loopOriginOf, originOf, resultOf } from "../rewrite.ts";
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

/** What is needed: values, and of each loop the carried states by number. */
interface Live {
  readonly values: ReadonlySet<ValueId>;
  readonly states: ReadonlyMap<ValueId, ReadonlySet<number>>;
}

class Simplifier {
  folds = 0;
  private readonly became = new Map<ValueId, ValueId>();
  /** The rebuilt loops, and the number that each old state has there. */
  private readonly results = new Map<ValueId, { owner: RegionOwner; states: readonly number[] }>();
  private readonly scopes: Map<string, ValueId>[] = [new Map()];
  private readonly build: TensorBuilder;
  private readonly live: Live;
  /** How many ops read a value. */
  private readonly uses: ReadonlyMap<ValueId, number>;
  private readonly program: Program;

  constructor(program: Program) {
    this.program = program;
    this.build = new TensorBuilder(program.name, program.dims);
    this.live = liveValues(program);
    this.uses = usesOf(program.ops);
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
    if (!this.live.values.has(op.id) && op.kind !== "input") return;
    if (op.kind === "recurrence" || op.kind === "chunks") return this.visitRegion(op);
    if (op.kind === "result") {
      const { owner, states } = this.results.get(op.of)!;
      const index = op.part === "checkpoint" ? states[op.index]! : op.index;
      this.became.set(op.id, resultOf(this.build, owner, op, index));
      return;
    }
    const mapped = mapOperands(op, this.get);
    const folded = this.fold(mapped) ?? this.regrouped(op, mapped);
    if (folded !== null) {
      this.folds++;
      this.became.set(op.id, folded);
      return;
    }
    const { id: _id, type, name, span, ...draft } = mapped;
    const key = keyOf(mapped);
    const known = this.known(key);
    if (known !== undefined) {
      this.became.set(op.id, known);
      return;
    }
    const id = this.build.add(draft, { name, span }, type);
    this.scopes.at(-1)!.set(key, id);
    this.became.set(op.id, id);
  }

  private known(key: string): ValueId | undefined {
    return this.scopes.map((scope) => scope.get(key)).find((value) => value !== undefined);
  }

  /** (x * k) * d where nothing else reads x * k, but x * d is there: (x * d) * k. */
  private regrouped(old: Op, op: Op): ValueId | null {
    if (op.kind !== "map" || op.fn !== "mul" || old.kind !== "map") return null;
    const { build } = this;
    for (const i of [0, 1] as const) {
      const [inner, other] = [build.opOf(op.args[i]!), op.args[1 - i]!] as const;
      if (inner?.kind !== "map" || inner.fn !== "mul" || this.uses.get(old.args[i]!) !== 1)
        continue;
      for (const j of [0, 1] as const) {
        const [x, rest] = [inner.args[j]!, inner.args[1 - j]!];
        // What a mask takes away may be infinite: it comes last where it did.
        if ([x, rest, other].some((id) => isMask(build.opOf(id)))) continue;
        const product = (a: ValueId, b: ValueId) => this.known(keyOf({ ...op, args: [a, b] }));
        const there = product(x, other) ?? product(other, x);
        if (there !== undefined) return build.mul(there, rest, originOf(op));
      }
    }
    return null;
  }

  private visitRegion(op: Recurrence | Chunks): void {
    // Of the states that anything needs ...
    const alive = [...this.live.states.get(op.id)!].sort((a, b) => a - b);
    const params = alive.map((i) => op.region.params[i]!);
    const carried = alive.map((i) => op.carries[i]!);
    const inits = alive.map((i) => (op.inits[i] === null ? null : this.get(op.inits[i]!)));
    // ... those that start alike and are updated alike are one: the first is carried.
    const narrow = { ...op, region: { ...op.region, params }, carries: carried };
    const first = equalStates(narrow, inits);
    const kept = params.flatMap((_, i) => (first[i] === i ? [i] : []));
    const states = kept.map((i) => ({
      name: params[i]!.name,
      type: params[i]!.type,
      init: inits[i]!,
    }));
    const used = usedYields(op, this.program.ops, this.live.values);
    this.scopes.push(new Map());
    const owner = this.build.region(
      op.kind,
      states,
      op.reverse,
      (values) => {
        params.forEach((param, i) => this.became.set(param.id, values[kept.indexOf(first[i]!)]!));
        for (const inner of op.region.ops) this.visit(inner);
        const yields = op.yields.filter((_, i) => used.has(i)).map(this.get);
        return { carries: kept.map((i) => this.get(carried[i]!)), yields };
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
    const carries: ValueId[] = [];
    const at: number[] = [];
    alive.forEach((old, i) => {
      at[old] = kept.indexOf(first[i]!);
      carries[old] = owner.carries[at[old]!]!;
    });
    if (kept.length < op.carries.length) this.folds++;
    this.results.set(op.id, { owner: { op: owner.op, yields, carries }, states: at });
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
    if (op.kind === "matmul") return this.unscaled(op);
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
      case "log": {
        const inner = build.opOf(a);
        if (inner?.kind !== "map") return null;
        const [x] = inner.args as [ValueId];
        if (inner.fn === "exp") return x;
        if (inner.fn !== "sigmoid") return null;
        const negated = (id: ValueId) => build.map("neg", [id], originOf(op));
        return negated(build.map("softplus", [negated(x)], originOf(op)));
      }
      default:
        return null;
    }
  }

  /**
   * (x * 2) @ y = x @ (y * 2), or (x @ y) * 2: what is loaded is multiplied as it is, and the number goes
   * to something that is computed anyway.
   */
  private unscaled(op: MatMul): ValueId | null {
    const { build } = this;
    const { lhs, rhs } = op;
    const origin = originOf(op);
    const [left, right] = [this.scaledRows(lhs), this.scaledRows(rhs)];
    const scaled = left ?? right;
    if (scaled === null) return null;
    const times = (id: ValueId) => {
      const by = build.const(scaled.number);
      const inner = build.opOf(id);
      return inner?.kind === "transpose"
        ? build.transpose(build.mul(inner.arg, by), origin)
        : build.mul(id, by, origin);
    };
    const other = left ? rhs : lhs;
    const plain = build.opOf(other);
    const inner = plain?.kind === "transpose" ? build.opOf(plain.arg) : plain;
    if (inner?.kind !== "map") {
      const product = left ? build.matmul(left.rows, rhs) : build.matmul(lhs, right!.rows);
      return build.mul(product, build.const(scaled.number), origin);
    }
    return left
      ? build.matmul(left.rows, times(rhs), origin)
      : build.matmul(times(lhs), right!.rows, origin);
  }

  /** Rows of a tensor times a number, either way up. */
  private scaledRows(id: ValueId): { rows: ValueId; number: number } | null {
    const { build } = this;
    const op = build.opOf(id);
    if (op?.kind === "transpose") {
      const inner = this.scaledRows(op.arg);
      return inner && { ...inner, rows: build.transpose(inner.rows) };
    }
    if (op?.kind !== "map" || (op.fn !== "mul" && op.fn !== "div")) return null;
    const [x, y] = op.args as [ValueId, ValueId];
    const by = constantOf(build.opOf(y));
    if (by === null || build.opOf(x)?.kind !== "rows") return null;
    return { rows: x, number: op.fn === "mul" ? by : 1 / by };
  }
}

/** What equal ops have in common. */
function keyOf({ id: _id, type, name: _name, span: _span, ...draft }: Op): string {
  return JSON.stringify([draft, type]);
}

function isMask(op: Op | null): boolean {
  return op?.kind === "causal" || op?.kind === "block-mask";
}

function usesOf(ops: readonly Op[], uses = new Map<ValueId, number>()): Map<ValueId, number> {
  for (const op of ops) {
    for (const id of operands(op)) uses.set(id, (uses.get(id) ?? 0) + 1);
    if (op.kind === "recurrence" || op.kind === "chunks") usesOf(op.region.ops, uses);
  }
  return uses;
}

function constantOf(op: Op | null): number | null {
  return op?.kind === "const" ? op.value : null;
}

/** Everything an output needs; of a loop, the states that a result or another such state reads. */
function liveValues(program: Program): Live {
  const states = new Map<ValueId, ReadonlySet<number>>();
  const live = new Set<ValueId>(program.outputs.map((out) => out.value));
  const walk = (ops: readonly Op[]) => {
    for (const op of [...ops].reverse()) {
      if (!live.has(op.id)) continue;
      if (op.kind === "recurrence" || op.kind === "chunks") walkLoop(op);
      else for (const id of operands(op)) live.add(id);
    }
  };
  const walkLoop = (op: Recurrence | Chunks) => {
    const results = program.ops.filter((other) => other.kind === "result" && other.of === op.id);
    // The states of a recurrence are the attention's own, read or not.
    const carried = new Set<number>(op.kind === "recurrence" ? op.carries.keys() : []);
    for (const result of results as readonly Result[]) {
      if (!live.has(result.id)) continue;
      if (result.part === "yield") live.add(op.yields[result.index]!);
      else carried.add(result.index);
    }
    for (let before = -1; before < carried.size;) {
      before = carried.size;
      for (const i of carried) {
        live.add(op.carries[i]!);
        if (op.inits[i] !== null) live.add(op.inits[i]!);
      }
      walk(op.region.ops);
      op.region.params.forEach((param, i) => live.has(param.id) && carried.add(i));
    }
    states.set(op.id, carried);
  };
  walk(program.ops);
  return { values: live, states };
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
      count += countOps(op.region.ops) + op.yields.length + op.carries.length;
    }
  }
  return count;
}
