/**
 * Chunk: each scan becomes a loop over chunks of C tokens that carries the state.
 *
 *   %o = scan %q, %k, %v, %g             chunks (%S) {
 *        {state = S, axis = scalar}  =>    %intra = ((%q @ %k^T) * causal %g) @ %v      left product
 *                                          %inter = (exp(G) * %q) @ %S                  right product
 *                                          %o     = %intra + %inter
 *                                          %S'    = exp(G_C) * %S + (exp(G_C - G) * %k)^T @ %v
 *                                        }
 *   with G the inclusive prefix sum of the log decay in the chunk and G_C its last value; G_C - G is
 *   taken from suffix sums, since for strong decays the difference cancels in float32.
 *
 * Every exponent is a sum of log decays, so <= 0 for decays <= 1: nothing overflows.
 * A read before the update uses exp(G - g) and the strict mask. Without a mask the loop only sums
 * the state up, and Q (K^T V) is a product with the loop's result. A sum over tokens is such a loop.
 *
 * Needs: right-product. Guarantees: no scan and no scan-state; C is left open until a target picks it.
 * Declines (a limitation): transitions that are diagonal over an axis, scans in reverse.
 * Source: LASP, arXiv 2404.02882, equations for O_intra, O_inter and KV; LASP-2, arXiv 2502.07563.
 */
import type { Pass, Report } from "../../support/pass.ts";
import {
  type Op,
  type Program,
  type Reduce,
  type Scan,
  type ScanState,
  type ValueId,
  chunkDim,
  tokenDim,
} from "../ir.ts";
import { Rewriter, indexOps, originOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const chunk: Pass<Program> = {
  name: "chunk",
  summary: "turn scans into loops over chunks: intra-chunk, inter-chunk and state update",
  run: (program, report) => {
    const hasWork = program.ops.some((op) => op.kind === "scan" || op.kind === "scan-state");
    if (!hasWork && tokenSums(program).size === 0) return program;
    if (program.ops.filter((op) => isUnsupported(op, report)).length > 0) return program;
    return simplify.run(new Chunker(program).run(), report);
  },
};

class Chunker {
  private readonly rewriter: Rewriter;
  /** The final state of loops made so far, by what they compute. */
  private readonly finals = new Map<string, ValueId>();
  private readonly program: Program;

  constructor(program: Program) {
    this.program = program;
    this.rewriter = new Rewriter(program);
  }

  run(): Program {
    const { rewriter } = this;
    const sums = tokenSums(this.program);
    for (const op of this.program.ops) {
      if (op.kind === "scan") rewriter.set(op.id, this.scan(op));
      else if (op.kind === "scan-state") rewriter.set(op.id, this.finalState(op));
      else if (sums.has(op)) rewriter.set(op.id, this.tokenSum(op as Reduce));
      else rewriter.copy(op);
    }
    return rewriter.finish(this.program.outputs);
  }

  private scan(op: Scan): ValueId {
    const { build, get } = this.rewriter;
    if (!op.causal) return build.matmul(get(op.q), this.finalState(op), originOf(op));
    const owner = this.loop(op, op);
    this.finals.set(this.key(op), owner.carries[0]!);
    return owner.yields[0]!;
  }

  private finalState(op: Scan | ScanState): ValueId {
    const known = this.finals.get(this.key(op));
    if (known !== undefined) return known;
    const final = this.loop(op, null).carries[0]!;
    this.finals.set(this.key(op), final);
    return final;
  }

  private key(op: Scan | ScanState): string {
    const { get } = this.rewriter;
    const opt = (id: ValueId | null) => (id === null ? null : get(id));
    return JSON.stringify([get(op.k), get(op.v), opt(op.logDecay), opt(op.initial), op.reverse]);
  }

  /** The loop that carries the state of `op` and, when `reader` is given, yields what it reads. */
  private loop(op: Scan | ScanState, reader: Scan | null) {
    const { build, get } = this.rewriter;
    const origin = originOf(op);
    const unnamed = { span: op.span };
    const [k, v, q] = [get(op.k), get(op.v), reader ? get(reader.q) : null];
    const log = op.logDecay === null ? null : get(op.logDecay);
    const type = { shape: [build.shapeOf(k)[1]!, build.shapeOf(v)[1]!] };
    const init = op.initial === null ? null : get(op.initial);
    return build.region("chunks", [{ name: op.state, type, init }], op.reverse, ([S]) => {
      const rows = (arg: ValueId) => build.add({ kind: "rows", arg }, nameOf(arg));
      const nameOf = (arg: ValueId) => ({ name: build.opOf(arg)?.name ?? null, span: op.span });
      const [kc, vc] = [rows(k), rows(v)];
      const decay = log === null ? null : this.decay(log);
      const named = (name: string) => ({ ...unnamed, name });
      const nameOr = (id: ValueId, other: string) => build.opOf(id)?.name ?? other;
      const exp = (x: ValueId, name: string) => build.map("exp", [x], named(name));
      const yields: ValueId[] = [];
      if (reader && q !== null) {
        const qc = rows(q);
        const strict = reader.read === "before";
        const scores = build.matmul(qc, build.transpose(kc, unnamed), {
          ...unnamed,
          name: "scores",
        });
        const mask = build.add(
          { kind: "causal", logDecay: decay?.masked ?? null, strict },
          named("mask"),
        );
        const masked = build.mul(scores, mask, named("masked"));
        const intra = build.matmul(masked, vc, named("intra"));
        const reach = decay && (strict ? build.map("sub", [decay.sum, decay.each]) : decay.sum);
        const decayed =
          reach === null
            ? qc
            : build.mul(qc, exp(reach, "from_start"), named(`${nameOr(qc, "q")}_decayed`));
        const inter = build.matmul(decayed, S!, named("inter"));
        yields.push(build.map("add", [intra, inter], origin));
      }
      const [kd, kept] = decay
        ? [
            build.mul(kc, exp(decay.rest, "to_end"), named(`${nameOr(kc, "k")}_decayed`)),
            build.mul(S!, exp(decay.total, "chunk_decay"), unnamed),
          ]
        : [kc, S!];
      const added = build.matmul(build.transpose(kd, unnamed), vc, unnamed);
      return { carries: [build.map("add", [kept, added], unnamed)], yields };
    });
  }

  /** Log decays of the chunk: each, up to each, after each ([C]), in all ([]), and what the mask takes. */
  private decay(log: ValueId) {
    const { build } = this.rewriter;
    const perToken = build.shapeOf(log).length > 0;
    const each = perToken
      ? build.add({ kind: "rows", arg: log }, { name: build.opOf(log)?.name ?? null })
      : build.mul(build.const(1, [chunkDim]), log, { name: "log_decay" });
    const sum = build.add({ kind: "cumsum", arg: each, reverse: false }, { name: "log_decay_sum" });
    // What is still to come after a token, from suffix sums: total - sum would cancel.
    const back = build.add(
      { kind: "cumsum", arg: each, reverse: true },
      { name: "log_decay_back" },
    );
    const rest = build.map("sub", [back, each], { name: "log_decay_rest" });
    const total = build.add(
      { kind: "reduce", fn: "sum", arg: each, axis: 0 },
      { name: "log_decay_total" },
    );
    return { each, sum, rest, total, masked: perToken ? each : log };
  }

  /** Sum over tokens of a [T, ...] value. */
  private tokenSum(op: Reduce): ValueId {
    const { build, get } = this.rewriter;
    const type = { shape: op.type.shape };
    const name = op.name ?? "sum";
    const owner = build.region("chunks", [{ name, type, init: null }], false, ([acc]) => {
      const rows = build.add({ kind: "rows", arg: get(op.arg) }, originOf(op));
      const sum = build.add({ kind: "reduce", fn: op.fn, arg: rows, axis: 0 }, originOf(op));
      return { carries: [build.map("add", [acc!, sum], originOf(op))], yields: [] };
    });
    return owner.carries[0]!;
  }
}

/** Is this a scan that cannot be a loop yet? Says so. */
function isUnsupported(op: Op, report: Report): boolean {
  if (op.kind !== "scan" && op.kind !== "scan-state") return false;
  const diagonal = op.axis === "key" || op.axis === "value";
  if (!diagonal && !op.reverse) return false;
  report.limit({
    code: op.reverse ? "unsupported-reverse" : "unsupported-transition",
    severity: "error",
    message: op.reverse
      ? "a recurrence in reverse is not compiled yet"
      : `a decay for each channel of the ${op.axis} axis is not compiled yet`,
    labels: [{ span: op.span, text: `state ${op.state} is read here` }],
    help: op.reverse ? null : "use one decay for the whole state: a scalar or [T]",
  });
  return true;
}

/** A sum over axis 0 of a [T, ...] value: the token axis. */
function tokenSums(program: Program): Set<Op> {
  const typed = indexOps(program);
  return new Set(
    program.ops.filter(
      (op) =>
        op.kind === "reduce" &&
        op.fn === "sum" &&
        op.axis === 0 &&
        typed.get(op.arg)?.type.shape[0] === tokenDim,
    ),
  );
}
