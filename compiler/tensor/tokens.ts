/**
 * Scans as recurrences, token by token: the form that says what a scan is. The reference's gradients are
 * taken of this form, so that they share nothing with the chunk loops that they check.
 */
import type { Delta, Op, Program, Scan, ScanState, ValueId } from "./ir.ts";
import { Rewriter, originOf } from "./rewrite.ts";

/** Every scan, scan-state and delta of a program as a `recurrence`. */
export function toTokens(program: Program): Program {
  const rewriter = new Rewriter(program);
  for (const op of program.ops) {
    if (op.kind === "scan" || op.kind === "scan-state" || op.kind === "delta") {
      rewriter.set(op.id, recurrence(rewriter, op));
    } else rewriter.copy(op);
  }
  return rewriter.finish(program.outputs);
}

function recurrence(rewriter: Rewriter, old: Scan | ScanState | Delta): ValueId {
  const { build } = rewriter;
  const op = rewriter.mapped(old);
  const span = { span: op.span };
  const [first] = op.writes as [Scan["writes"][number]];
  const type = { shape: [build.shapeOf(first.k)[1]!, build.shapeOf(first.v)[1]!] };
  const owner = build.region(
    "recurrence",
    [{ name: op.state, type, init: op.initial }],
    op.reverse,
    ([S]) => {
      const row = (arg: ValueId) => build.add({ kind: "rows", arg }, span);
      const plus = (a: ValueId, b: ValueId) => build.map("add", [a, b], span);
      const values: ValueId[] = [];
      op.writes.forEach((write, m) => {
        const erase = "erase" in write ? (write as Delta["writes"][number]).erase : null;
        let value = row(write.v);
        if (erase !== null) value = plus(value, build.matmul(row(erase), S!, span));
        for (const { to, from, scale } of op.kind === "delta" ? op.couplings : []) {
          if (to === m) value = plus(value, build.mul(values[from]!, row(scale), span));
        }
        values.push(value);
      });
      const kept = op.logDecay === null ? S! : decayed(rewriter, op, S!);
      const after = op.writes.reduce(
        (state, { k }, m) =>
          plus(state, build.add({ kind: "outer", lhs: row(k), rhs: values[m]! }, span)),
        kept,
      );
      const yields: ValueId[] = [];
      if (op.kind === "delta") yields.push(values[op.index]!);
      if (op.kind === "scan" && op.causal) {
        yields.push(build.matmul(row(op.q), op.read === "before" ? S! : after, span));
      }
      return { carries: [after], yields };
    },
    span,
  );
  if (op.kind === "scan" && !op.causal) return build.matmul(op.q, owner.carries[0]!, originOf(op));
  if (op.kind !== "scan-state") return owner.yields[0]!;
  if (op.every === null) return owner.carries[0]!;
  return build.checkpoint(owner.op, 0, op.every, originOf(op));
}

/** exp(log decay) of the token times the state, along the axis it belongs to. */
function decayed({ build }: Rewriter, op: Scan | ScanState | Delta, S: ValueId): ValueId {
  const span = { span: op.span };
  const log = op.logDecay!;
  const perToken = build.shapeOf(log)[0] === "T";
  const own = perToken ? build.add({ kind: "rows", arg: log }, span) : log;
  const factor = build.map("exp", [own], span);
  const [key, value] = build.shapeOf(S) as [
    Op["type"]["shape"][number],
    Op["type"]["shape"][number],
  ];
  // Dims of one name: a value axis has to be said, since a vector spreads along the first.
  if (op.axis === "value" && key === value) {
    const ones = build.const(1, [key]);
    return build.mul(S, build.add({ kind: "outer", lhs: ones, rhs: factor }, span), span);
  }
  return build.mul(S, factor, span);
}
