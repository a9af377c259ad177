/**
 * Right-product: (Q K^T . mask) V and every recurrence that is affine in its state become scans.
 *
 *   %s: f32[T, T] = matmul %q, %kt              %o: f32[T, V] = scan %q, %k, %v, %g
 *   %d: f32[T, T] = causal %g                        {state = S, axis = scalar}
 *   %m: f32[T, T] = mul %s, %d           =>
 *   %o: f32[T, V] = matmul %m, %v               (read: o_t = q_t S_t, S_t = exp(g_t) S_{t-1} + k_t v_t^T)
 *
 * Product form: the scores are factored into (scale q) k^T times exp(g[j+1] + ... + g[i]) below the
 * diagonal (`scores.ts`). Recurrence form: the statements are composed into S' = decay * S + k v^T
 * (`affine.ts`). Both then read the same, so the same rule gives the same scan either way.
 *
 * Without a mask every token reads the whole sum: (Q K^T) V = Q (K^T V).
 * Flops: 2 T^2 (K + V) before, 4 T K V after. T is a run-time size, so the right product is taken
 * unless the caller names a T for which the left one is cheaper.
 *
 * Guarantees: no value of shape [T, T] and no recurrence is left, or a limitation says which
 * statement is outside the family. Source: LASP, arXiv 2404.02882, section 3; docs/language.md.
 */
import { diagnose } from "../../support/catalogue.ts";
import type { Pass, Report } from "../../support/pass.ts";
import { liftRecurrence } from "../affine.ts";
import {
  type MatMul,
  type Op,
  type Program,
  type Recurrence,
  type Reduce,
  type ValueId,
  tokenDim,
} from "../ir.ts";
import { withoutPoles } from "../log-decay.ts";
import { Rewriter, originOf } from "../rewrite.ts";
import { type ScoreTerm, factorScores, isSquare } from "../scores.ts";
import { simplify } from "./simplify.ts";

export interface RightProductOptions {
  /** A sequence length the caller wants the product order judged for; null: any. */
  readonly tokens: number | null;
}

export function rightProduct(options: RightProductOptions = { tokens: null }): Pass<Program> {
  return {
    name: "right-product",
    summary: "turn masked score products and recurrences into scans: (Q K^T) V to Q (K^T V)",
    run: (program, report) => {
      const next = new RightProduct(program, report, options).run();
      const after = next ? simplify.run(next, report) : program;
      if (report.limitations.length === 0 && options.tokens === null) {
        reportLeftovers(after, report);
      }
      return after;
    },
  };
}

class RightProduct {
  private readonly rewriter: Rewriter;
  private readonly stateNames = new Set<string>();
  private readonly recurrenceYields = new Map<ValueId, readonly ValueId[]>();
  private changed = false;
  private readonly program: Program;
  private readonly report: Report;
  private readonly options: RightProductOptions;

  constructor(program: Program, report: Report, options: RightProductOptions) {
    this.program = program;
    this.report = report;
    this.options = options;
    this.rewriter = new Rewriter(program);
  }

  run(): Program | null {
    for (const op of this.program.ops) this.visit(op);
    return this.changed ? this.rewriter.finish(this.program.outputs) : null;
  }

  private visit(op: Op): void {
    const { rewriter } = this;
    const scores = scoresRead(op, rewriter);
    if (scores !== null) {
      const value = this.product(op as MatMul | Reduce, scores);
      if (value === null) rewriter.copy(op);
      else rewriter.set(op.id, value);
      this.changed ||= value !== null;
      return;
    }
    const sum = sumRead(op, rewriter);
    if (sum !== null) {
      this.changed = true;
      rewriter.set(op.id, this.sumOverTokens(op as MatMul, sum));
      return;
    }
    if (op.kind === "recurrence") {
      this.changed = true;
      return this.recurrence(op);
    }
    const yields = op.kind === "result" ? this.recurrenceYields.get(op.of) : undefined;
    if (op.kind === "result" && yields) {
      // Only yields of a recurrence can be named in the language; its states are outputs of forms.
      if (op.part === "yield") rewriter.set(op.id, yields[op.index]!);
      return;
    }
    rewriter.copy(op);
  }

  /** scores @ v (or the row sums of scores) as a sum of scans; null when it declines. */
  private product(op: MatMul | Reduce, scores: ValueId): ValueId | null {
    const { build, get } = this.rewriter;
    const factored = factorScores(build, scores);
    if (!factored.ok) {
      const { op: at, why } = factored.failure;
      this.decline(op, why);
      this.report.limit({
        code: "unsupported-scores",
        severity: "error",
        message: `these scores are outside linear attention: ${why}`,
        labels: [
          { span: at.span, text: "" },
          { span: op.span, text: "their product with the values is taken here" },
        ],
        help: "give q and k a feature map instead of the scores a function: `elu(q) + 1`",
      });
      return null;
    }
    if (factored.terms.some((term) => term.causal === null) && this.leftIsCheaper(op)) return null;
    const rows = op.kind === "reduce";
    const v = rows ? build.const(1, [tokenDim, 1]) : get(op.rhs);
    const parts = factored.terms.map((term) => this.scan(term, v, op));
    const sum = parts.reduce((a, b) => build.map("add", [a, b], originOf(op)));
    return rows ? build.add({ kind: "reduce", fn: "sum", arg: sum, axis: 1 }, originOf(op)) : sum;
  }

  private scan(term: ScoreTerm, v: ValueId, op: Op): ValueId {
    const { build } = this.rewriter;
    const origin = originOf(op);
    const ones = () => build.const(1, [tokenDim, 1]);
    let q = term.pair ? term.pair.q : ones();
    for (const scale of term.scales) q = build.mul(q, scale, origin);
    if (term.negative) q = build.map("neg", [q], origin);
    const decays = term.causal ?? [];
    const logDecay =
      decays.length === 0
        ? null
        : withoutPoles(
            build,
            decays.reduce((a, b) => build.map("add", [a, b], origin)),
          );
    const state = this.nameState("S");
    const causal = term.causal !== null;
    const kind = !causal
      ? "no mask: every token reads the whole sum"
      : logDecay === null
        ? "identity transition"
        : `scalar transition, ${build.shapeOf(logDecay).length > 0 ? "per token" : "constant"}`;
    const [K, V] = [build.shapeOf(term.pair?.k ?? q)[1], build.shapeOf(v)[1]];
    this.report.add({
      pass: "right-product",
      kind: "did",
      message:
        `(q @ k.T) @ v became a scan of state ${state}: [${K}, ${V}] (${kind}); ` +
        `2 T^2 (${K} + ${V}) flops became 4 T ${K} ${V}`,
    });
    return build.add(
      {
        kind: "scan",
        state,
        q,
        writes: [{ k: term.pair ? term.pair.k : ones(), v }],
        logDecay,
        initial: null,
        axis: logDecay === null ? "none" : "scalar",
        read: "after",
        reverse: false,
        causal,
      },
      origin,
    );
  }

  /** q @ (k.T @ v), written as the right product already: the same scan. */
  private sumOverTokens(op: MatMul, sum: MatMul): ValueId {
    const { build, get } = this.rewriter;
    const inner = build.opOf(sum.lhs);
    const k = inner?.kind === "transpose" ? inner.arg : build.transpose(sum.lhs, originOf(op));
    const state = this.nameState(sum.name ?? "S");
    const message = `q @ (k.T @ v) is a scan of state ${state} already (no mask)`;
    this.report.add({ pass: "right-product", kind: "did", message });
    return build.add(
      {
        kind: "scan",
        state,
        q: get(op.lhs),
        writes: [{ k, v: sum.rhs }],
        logDecay: null,
        initial: null,
        axis: "none",
        read: "after",
        reverse: false,
        causal: false,
      },
      originOf(op),
    );
  }

  /** Without a mask and for the given T: is Q K^T then V cheaper than K^T V then Q? Says so. */
  private leftIsCheaper(op: MatMul | Reduce): boolean {
    const { tokens } = this.options;
    if (tokens === null || op.kind === "reduce") return false;
    const { build, get } = this.rewriter;
    const size = (dim: string | number | undefined) =>
      typeof dim === "number" ? dim : (this.program.dims.get(dim ?? "") ?? null);
    const scores = build.opOf(get(op.lhs));
    if (scores?.kind !== "matmul") return false;
    const [K, V] = [size(build.shapeOf(scores.lhs)[1]), size(build.shapeOf(get(op.rhs))[1])];
    if (typeof K !== "number" || typeof V !== "number") return false;
    const [left, right] = [2 * tokens * tokens * (K + V), 4 * tokens * K * V];
    if (left >= right) return false;
    this.decline(op, `at T = ${tokens} the left product costs ${left} flops, the right ${right}`);
    return true;
  }

  private recurrence(op: Recurrence): void {
    const { build, get } = this.rewriter;
    const lifted = liftRecurrence(build, op, get, (wanted) => this.nameState(wanted));
    if (lifted.ok) {
      this.recurrenceYields.set(op.id, lifted.yields);
      for (const line of lifted.classes) {
        const message = `the recurrence became a scan; transition of ${line}`;
        this.report.add({ pass: "right-product", kind: "did", message });
      }
      return;
    }
    const { code, op: at, why, help } = lifted.failure;
    this.decline(op, why);
    const labels = [
      { span: at.span, text: "" },
      { span: op.span, text: "in this recurrence" },
    ];
    this.report.limit(diagnose(code, { why }, labels, help));
    // The program is not compiled any further; its values only have to exist.
    const zero = op.yields.map((id) => {
      const inner = op.region.ops.find((candidate) => candidate.id === id);
      return build.const(0, [tokenDim, ...(inner?.type.shape ?? [])]);
    });
    this.recurrenceYields.set(op.id, zero);
  }

  private decline(op: Op, why: string): void {
    const name = op.name ?? op.kind;
    this.report.add({ pass: "right-product", kind: "declined", message: `${name}: ${why}` });
  }

  private nameState(wanted: string): string {
    let name = wanted;
    for (let n = 2; this.stateNames.has(name); n++) name = `${wanted}_${n}`;
    this.stateNames.add(name);
    return name;
  }
}

/** The T x T value that `op` contracts over its second axis, or null. */
function scoresRead(op: Op, rewriter: Rewriter): ValueId | null {
  switch (op.kind) {
    case "matmul": {
      const lhs = rewriter.get(op.lhs);
      const wide = rewriter.build.shapeOf(rewriter.get(op.rhs));
      const isProduct = isSquare(rewriter.build, lhs) && wide.length === 2 && wide[1] !== tokenDim;
      return isProduct ? lhs : null;
    }
    case "reduce": {
      const arg = rewriter.get(op.arg);
      return isSquare(rewriter.build, arg) && op.axis === 1 && op.fn === "sum" ? arg : null;
    }
    default:
      return null;
  }
}

/** The product over tokens k^T v that `op` multiplies a per-token value with, or null. */
function sumRead(op: Op, { build, get }: Rewriter): MatMul | null {
  if (op.kind !== "matmul") return null;
  const shape = build.shapeOf(get(op.lhs));
  if (shape.length !== 2 || shape[0] !== tokenDim || shape[1] === tokenDim) return null;
  const sum = build.opOf(get(op.rhs));
  if (sum?.kind !== "matmul" || build.shapeOf(sum.lhs).length !== 2) return null;
  const overTokens = build.shapeOf(sum.lhs)[1] === tokenDim && sum.type.shape.length === 2;
  return overTokens && sum.type.shape[0] !== tokenDim ? sum : null;
}

/** Ops that still need all tokens at once: outside what scans and per-token code can say. */
function reportLeftovers(program: Program, report: Report): void {
  const shapes = new Map(program.ops.map((op) => [op.id, op.type.shape]));
  for (const op of program.ops) {
    const wide = op.type.shape.slice(1).includes(tokenDim);
    const contracts =
      (op.kind === "matmul" && shapes.get(op.lhs)!.at(-1) === tokenDim) ||
      (op.kind === "reduce" && shapes.get(op.arg)![op.axis] === tokenDim) ||
      op.kind === "cumsum";
    // A transpose is only a view; what reads it is reported instead.
    if (op.kind === "transpose" || (!wide && !contracts)) continue;
    const why = wide
      ? "this has a row and a column for each token and is not a product with values"
      : "this sums over all tokens outside of a scan";
    report.limit({
      code: "unsupported-scores",
      severity: "error",
      message: `this attention is not linear: ${why}`,
      labels: [{ span: op.span, text: why }],
      help: "multiply the scores with per-token values: (scores) @ v",
    });
    return;
  }
}
