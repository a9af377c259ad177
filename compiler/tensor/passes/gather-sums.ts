/**
 * Gather-sums: running sums of vectors in one direction that are added up become one of what they are sums of.
 *
 *   %a = cumsum %x {reverse = true}
 *   %b = cumsum %y {reverse = true}        %x_y = sub %x, %y
 *   %c = add %z, %a                  =>    %a = cumsum %x_y {reverse = true}
 *   %d = sub %c, %b                        %d = add %z, %a
 *
 * Gradients of gates are such sums, a running one for each way that a decay goes into the outputs; each is a chain of
 * steps that nothing else in a chunk can wait for.
 *
 * Needs: simplify. Guarantees: the same values but for the order of additions.
 */
import type { Pass } from "../../support/pass.ts";
import { type Chunks, type CumSum, type Op, type Program, type ValueId, operands } from "../ir.ts";
import type { Facts } from "../loop-facts.ts";
import { rewriteLoops } from "../rewrite-loops.ts";
import { type Rewriter, originOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const gatherSums: Pass<Program> = {
  name: "gather-sums",
  summary: "sum up what runs in one direction before it runs",
  run: (program, report) => {
    let count = 0;
    const next = rewriteLoops(program, (loop, facts) => {
      const gatherer = new Gatherer(loop, facts);
      return (op, rewriter) => {
        const sum = gatherer.gathered(op, rewriter);
        if (sum !== null) count++;
        return sum;
      };
    });
    return count === 0 ? program : simplify.run(next, report);
  },
};

interface Term {
  readonly id: ValueId;
  readonly isNegative: boolean;
}

class Gatherer {
  private readonly facts: Facts;
  private readonly users = new Map<ValueId, Op[]>();
  private readonly kept: ReadonlySet<ValueId>;

  constructor(loop: Chunks, facts: Facts) {
    this.facts = facts;
    this.kept = new Set([...loop.carries, ...loop.yields]);
    for (const op of loop.region.ops) {
      for (const id of new Set(operands(op))) {
        this.users.set(id, [...(this.users.get(id) ?? []), op]);
      }
    }
  }

  /** The sum that an op is the last addition of, with its running sums gathered; null: there is nothing to gather. */
  gathered(op: Op, rewriter: Rewriter): ValueId | null {
    if (!this.isAddition(op) || this.isPartOfSum(op)) return null;
    const terms = this.termsOf(op.id, false);
    const directions = new Map<string, Term[]>();
    for (const term of terms) {
      const running = this.runningSum(term.id);
      if (running === null) continue;
      const key = `${running.reverse} ${running.exclusive ?? false}`;
      directions.set(key, [...(directions.get(key) ?? []), term]);
    }
    const groups = [...directions.values()].filter((group) => group.length > 1);
    if (groups.length === 0) return null;
    const { build, get } = rewriter;
    const origin = originOf(op);
    const sumOf = (signed: readonly { value: ValueId; isNegative: boolean }[]): ValueId => {
      const [first, ...rest] = [...signed].sort(
        (a, b) => Number(a.isNegative) - Number(b.isNegative),
      );
      const start = first!.isNegative ? build.map("neg", [first!.value], origin) : first!.value;
      return rest.reduce(
        (sum, { value, isNegative }) => build.map(isNegative ? "sub" : "add", [sum, value], origin),
        start,
      );
    };
    const plain = terms.filter((term) => groups.every((group) => !group.includes(term)));
    const running = groups.map((group) => {
      const { id: _id, type, name, span, ...draft } = this.runningSum(group[0]!.id)!;
      const arg = sumOf(
        group.map(({ id, isNegative }) => ({ value: get(this.runningSum(id)!.arg), isNegative })),
      );
      return { value: build.add({ ...draft, arg }, { name, span }, type), isNegative: false };
    });
    return sumOf([
      ...plain.map(({ id, isNegative }) => ({ value: get(id), isNegative })),
      ...running,
    ]);
  }

  private termsOf(id: ValueId, isNegative: boolean): readonly Term[] {
    const op = this.facts.op(id);
    if (op?.kind !== "map" || !this.isAddition(op)) return [{ id, isNegative }];
    return op.args.flatMap((arg, i) => {
      const sign = isNegative !== (op.fn === "sub" && i === 1);
      const inner = this.facts.op(arg);
      const isOpen = inner !== undefined && this.isAddition(inner) && this.isPartOfSum(inner);
      return isOpen ? this.termsOf(arg, sign) : [{ id: arg, isNegative: sign }];
    });
  }

  /** A running sum of a vector that nothing but one addition reads. */
  private runningSum(id: ValueId): CumSum | null {
    const op = this.facts.op(id);
    if (op?.kind !== "cumsum" || op.block !== null || op.earlier !== undefined) return null;
    return this.facts.isVector(id) && this.isReadOnce(id) ? op : null;
  }

  private isAddition(op: Op): boolean {
    return op.kind === "map" && (op.fn === "add" || op.fn === "sub") && this.facts.isVector(op.id);
  }

  /** Is it itself added to something, and nothing else? */
  private isPartOfSum(op: Op): boolean {
    const [user] = this.users.get(op.id) ?? [];
    return user !== undefined && this.isReadOnce(op.id) && this.isAddition(user);
  }

  private isReadOnce(id: ValueId): boolean {
    const users = this.users.get(id) ?? [];
    const reads = users.flatMap((user) => operands(user)).filter((one) => one === id);
    return reads.length === 1 && !this.kept.has(id);
  }
}
