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
 * A decay for each channel cannot be a mask; then the causal triangle is cut into squares, and the decay
 * between two tokens into the part up to the border of their square and the part from it on
 * (`chunk-decay.ts`): exponents are sums of log decays, so <= 0 for decays <= 1, or bounded.
 *
 * A delta (diagonal plus rank r) solves for the values of the whole chunk at once: w = v + L w + inter,
 * L the strict scores of the erase vectors against the keys; several writes of a token are eliminated
 * one after another. What reads the state is then a scan over (k, w).
 *
 * A read before the update uses exp(G - g) and the strict mask. Without a mask the loop only sums
 * the state up, and Q (K^T V) is a product with the loop's result. A sum over tokens is such a loop.
 * In reverse, time runs from the last row of a chunk to its first, and chunks come last to first.
 *
 * Needs: right-product. Guarantees: no scan, scan-state or delta; C is left open until a target picks it.
 * Sources: LASP, arXiv 2404.02882, equations for O_intra, O_inter and KV; LASP-2, arXiv 2502.07563;
 * GLA, arXiv 2312.06635; DeltaNet, arXiv 2406.06484 (UT transform); docs/derivations.md.
 */
import type { Pass } from "../../support/pass.ts";
import { ChunkDecay } from "../chunk-decay.ts";
import {
  type Delta,
  type Op,
  type Program,
  type Reduce,
  type Result,
  type Scan,
  type ScanState,
  type ValueId,
  tokenDim,
} from "../ir.ts";
import { Rewriter, indexOps, originOf } from "../rewrite.ts";
import { simplify } from "./simplify.ts";

export const chunk: Pass<Program> = chunkOf(null);

/** With chunks of at most `longest` tokens; 1: the decode step, where nothing is left of the masks. */
export function chunkOf(longest: number | null): Pass<Program> {
  return {
    name: "chunk",
    summary: "turn scans into loops over chunks: intra-chunk, inter-chunk and state update",
    run: (program, report) => {
      const hasWork = program.ops.some(isScan);
      if (!hasWork && tokenSums(program).size === 0) return program;
      return simplify.run(new Chunker(program, longest).run(), report);
    },
  };
}

type AnyScan = Scan | ScanState | Delta;

function isScan(op: Op): op is AnyScan {
  return op.kind === "scan" || op.kind === "scan-state" || op.kind === "delta";
}

class Chunker {
  private readonly rewriter: Rewriter;
  /** The final state of loops made so far, by what they compute. */
  private readonly finals = new Map<string, ValueId>();
  /** The written values of deltas, by what they compute: one loop gives all of them. */
  private readonly deltas = new Map<string, readonly ValueId[]>();
  private readonly program: Program;

  private readonly longest: number | null;
  private readonly near: number;
  constructor(program: Program, longest: number | null) {
    this.program = program;
    this.longest = longest;
    const inputs = program.ops.flatMap((op) => (op.kind === "input" ? [op.dtype] : []));
    const isDelta = program.ops.some(({ kind }) => kind === "delta");
    this.near = ChunkDecay.nearFor(inputs, isDelta);
    this.rewriter = new Rewriter(program);
  }

  run(): Program {
    const { rewriter } = this;
    const sums = tokenSums(this.program);
    for (const op of this.program.ops) {
      if (op.kind === "scan") rewriter.set(op.id, this.scan(op));
      else if (op.kind === "scan-state") rewriter.set(op.id, this.state(op));
      else if (op.kind === "delta") rewriter.set(op.id, this.delta(op));
      else if (sums.has(op)) rewriter.set(op.id, this.tokenSum(op as Reduce));
      else rewriter.copy(op);
    }
    return rewriter.finish(this.program.outputs);
  }

  private scan(op: Scan): ValueId {
    const { build, get } = this.rewriter;
    if (!op.causal) return build.matmul(get(op.q), this.finalState(op), originOf(op));
    const owner = this.loop(op, (body) => [body.read(get(op.q), op)]);
    this.finals.set(this.key(op), owner.carries[0]!);
    return owner.yields[0]!;
  }

  private state(op: ScanState): ValueId {
    const { build } = this.rewriter;
    const final = this.finalState(op);
    if (op.every === null) return final;
    const of = (build.opOf(final) as Result).of;
    return build.checkpoint(of, 0, op.every, originOf(op));
  }

  private finalState(op: Scan | ScanState): ValueId {
    const known = this.finals.get(this.key(op));
    if (known !== undefined) return known;
    const final = this.loop(op, () => []).carries[0]!;
    this.finals.set(this.key(op), final);
    return final;
  }

  private delta(op: Delta): ValueId {
    const key = `${this.key(op)} ${JSON.stringify(this.rewriter.mapped(op).couplings)}`;
    const values = this.deltas.get(key) ?? this.loop(op, (body) => body.values).yields;
    this.deltas.set(key, values);
    return values[op.index]!;
  }

  private key(op: AnyScan): string {
    const { writes, logDecay, initial, reverse } = this.rewriter.mapped(op);
    return JSON.stringify([writes, logDecay, initial, reverse]);
  }

  /** The loop that carries the state of `op`, and yields what `yields` makes in it. */
  private loop(op: AnyScan, yields: (body: Body) => readonly ValueId[]) {
    const { build, get } = this.rewriter;
    const [{ k, v }] = op.writes as [{ k: ValueId; v: ValueId }];
    const type = { shape: [build.shapeOf(get(k))[1]!, build.shapeOf(get(v))[1]!] };
    const init = op.initial === null ? null : get(op.initial);
    const perChannel = op.axis === "key" || op.axis === "value";
    const longest = this.longest ?? (perChannel ? ChunkDecay.longest : null);
    return build.region(
      "chunks",
      [{ name: op.state, type, init }],
      op.reverse,
      ([S]) => {
        const body = new Body(this.rewriter, op, S!, longest, this.near);
        return { yields: yields(body), carries: [body.after()] };
      },
      { longest },
    );
  }

  /** Sum over tokens of a [T, ...] value. */
  private tokenSum(op: Reduce): ValueId {
    const { build, get } = this.rewriter;
    const type = { shape: op.type.shape };
    const name = op.name ?? "sum";
    const body = ([acc]: readonly ValueId[]) => {
      const rows = build.add({ kind: "rows", arg: get(op.arg) }, originOf(op));
      const sum = build.add({ kind: "reduce", fn: op.fn, arg: rows, axis: 0 }, originOf(op));
      return { carries: [build.map("add", [acc!, sum], originOf(op))], yields: [] };
    };
    const { longest } = this;
    const owner = build.region("chunks", [{ name, type, init: null }], false, body, { longest });
    return owner.carries[0]!;
  }
}

/** A write of the chunk: keys, values ([C, V]) and, where it reads the state, its erase vectors. */
interface ChunkWrite {
  readonly k: ValueId;
  readonly v: ValueId;
  readonly erase: ValueId | null;
}

/** What one chunk computes. */
class Body {
  /** What each write adds beside its key: given, or solved for. */
  readonly values: readonly ValueId[];
  private readonly keys: readonly ValueId[];
  private readonly decay: ChunkDecay;
  private readonly rewriter: Rewriter;
  private readonly op: AnyScan;
  private readonly S: ValueId;

  constructor(rewriter: Rewriter, op: AnyScan, S: ValueId, longest: number | null, near: number) {
    this.rewriter = rewriter;
    this.op = op;
    this.S = S;
    const log = op.logDecay === null ? null : rewriter.get(op.logDecay);
    this.decay = new ChunkDecay(rewriter.build, log, op, longest, near);
    const writes = op.writes.map((write): ChunkWrite => {
      const erase = "erase" in write ? (write as Delta["writes"][number]).erase : null;
      return {
        k: this.rows(write.k),
        v: this.rows(write.v),
        erase: erase === null ? null : this.rows(erase),
      };
    });
    this.keys = writes.map(({ k }) => k);
    this.values = op.kind === "delta" ? this.solved(writes, op) : writes.map(({ v }) => v);
  }

  /** q_t S_t, or q_t S_{t-1}, for the tokens of the chunk. */
  read(query: ValueId, reader: Scan): ValueId {
    const { build } = this.rewriter;
    const unnamed = { span: this.op.span };
    const strict = reader.read === "before";
    const q = build.add({ kind: "rows", arg: query }, this.named(query));
    const inter = this.decay.inter(q, this.S, strict);
    const intra = this.keys.flatMap((k, m) => {
      const scores = this.decay.pair(q, k, strict);
      return scores === null ? [] : [this.decay.apply(scores, this.values[m]!, strict, "intra")];
    });
    const parts = [...intra, inter];
    if (parts.length === 1) return inter;
    const sum = parts.slice(0, -1).reduce((a, b) => build.map("add", [a, b], unnamed));
    return build.map("add", [sum, inter], originOf(reader));
  }

  /** The state after the chunk. */
  after(): ValueId {
    const { build } = this.rewriter;
    const unnamed = { span: this.op.span };
    return this.keys.reduce((state, k, m) => {
      const [left, right] = this.decay.toEnd(k, this.values[m]!);
      const added = build.matmul(build.transpose(left, unnamed), right, unnamed);
      return build.map("add", [state, added], unnamed);
    }, this.decay.kept(this.S));
  }

  private rows(old: ValueId): ValueId {
    const arg = this.rewriter.get(old);
    return this.rewriter.build.add({ kind: "rows", arg }, this.named(arg));
  }

  private named(value: ValueId) {
    const { build } = this.rewriter;
    return { name: build.opOf(value)?.name ?? null, span: this.op.span };
  }

  /**
   * (I - L_mm) w_m - (sum of L_mn w_n, n not m) = v_m + erase_m S. Unknowns are eliminated in order:
   * w_0 = (I - L_00)^-1 (...) goes into the others, and so on, then back.
   */
  private solved(writes: readonly ChunkWrite[], op: Delta): ValueId[] {
    const { build } = this.rewriter;
    const span = { span: op.span };
    const add = (a: ValueId | null, b: ValueId) =>
      a === null ? b : build.map("add", [a, b], span);
    // Writes that read nothing are known; the others are unknowns, by their index.
    const coupled = new Set(op.couplings.map(({ to }) => to));
    const unknown = writes.flatMap(({ erase }, m) => (erase !== null || coupled.has(m) ? [m] : []));
    const values = writes.map(({ v }) => v);
    const matrix = new Map<string, ValueId>();
    const entry = (m: number, n: number) => matrix.get(`${m} ${n}`) ?? null;
    writes.forEach(({ erase }, m) => {
      writes.forEach(({ k }, n) => {
        let value = erase === null ? null : this.decay.pair(erase, k, true);
        const coupling = op.couplings.find(({ to, from }) => to === m && from === n);
        if (coupling) {
          const scale = this.rows(coupling.scale);
          const diagonal = build.add({ kind: "block-mask", block: 0, reverse: false }, span);
          value = add(value, build.mul(diagonal, scale, span));
        }
        if (value !== null) matrix.set(`${m} ${n}`, value);
      });
    });
    const rhs = new Map<number, ValueId>();
    for (const m of unknown) {
      const { v, erase } = writes[m]!;
      let sum = erase === null ? v : add(v, this.decay.inter(erase, this.S, true));
      writes.forEach(({ v: known }, n) => {
        const factor = unknown.includes(n) ? null : entry(m, n);
        if (factor !== null) sum = add(sum, build.matmul(factor, known, span));
      });
      rhs.set(m, sum);
    }
    const solve = (m: number, right: ValueId): ValueId => {
      const own = entry(m, m);
      if (own === null) return right;
      const draft = { kind: "solve", matrix: own, rhs: right, upper: op.reverse } as const;
      return build.add(draft, span);
    };
    unknown.forEach((m, at) => {
      for (const n of unknown.slice(at + 1)) {
        const factor = entry(n, m);
        if (factor === null) continue;
        rhs.set(n, add(rhs.get(n)!, build.matmul(factor, solve(m, rhs.get(m)!), span)));
        for (const other of unknown.slice(at + 1)) {
          const right = entry(m, other);
          if (right === null) continue;
          const product = build.matmul(factor, solve(m, right), span);
          matrix.set(`${n} ${other}`, add(entry(n, other), product));
        }
      }
    });
    for (const [at, m] of [...unknown.entries()].reverse()) {
      let right = rhs.get(m)!;
      for (const n of unknown.slice(at + 1)) {
        const factor = entry(m, n);
        if (factor !== null) right = add(right, build.matmul(factor, values[n]!, span));
      }
      values[m] = solve(m, right);
    }
    return values;
  }
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
