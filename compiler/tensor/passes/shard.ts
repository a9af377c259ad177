/**
 * Shard: one attention becomes the forms that ranges of its sequence are computed with.
 *
 *   %o = scan %q, %k, %v, %g {state = S}
 *   =>
 *   summary    k, v, g                             -> summary_S = the state of this range from zero
 *                                                     decay_S   = sum of g over this range
 *   fold_S     initial_S, summary_S, decay_S       -> final_S = exp(decay_S) * initial_S + summary_S
 *   compose_S  earlier_S, later_S                  -> both_S = earlier_S + later_S, of two ranges' decays
 *   forward    q, k, v, g, initial_S               -> o, final_S
 *   step       as forward, one token at a time     -> o, final_S: decoding
 *
 * The three stages summarise / exchange / output: the summary needs no query and no other range, so a
 * rank computes and sends it before anything waits. What is exchanged follows from the transition: the
 * state, and for all but a chain what a range multiplies a state with: nothing, exp of its summed log decay, or
 * where the transition is dense (a delta rule) a matrix:
 *
 *   transition k, beta                             -> transition_S = the product over this range, [K, K]
 *   fold_S     initial_S, summary_S, transition_S  -> final_S = transition_S @ initial_S + summary_S
 *   fold_bwd_S d_final_S, d_summary_S, transition_S -> d_initial_S = transition_S^T @ d_final_S + d_summary_S
 *   compose_S  earlier_S, later_S                  -> both_S = later_S @ earlier_S
 *
 * Where states write what is read of others, there are a summary and a transition for each level of that dependency
 * (`levels.ts`): `summary_level_1` takes the first states of level 0 besides.
 *
 * Needs: right-product. Guarantees: every form reads only the inputs it needs; a range of no tokens
 * summarises to zero. Source: LASP, arXiv 2404.02882; LASP-2, arXiv 2502.07563, with weighted prefix.
 */
import {
  type DecayAxis,
  type Delta,
  type Dim,
  type Op,
  type Output,
  type Program,
  type Scan,
  type TensorType,
  type ValueId,
  type Write,
  operands,
  tokenDim,
} from "../ir.ts";
import { Report } from "../../support/pass.ts";
import { Rewriter, captured } from "../rewrite.ts";
import { exchangeForms, stateInput, stateOutput } from "../exchange.ts";
import {
  type Dependencies,
  type LevelFormName,
  byLevel,
  dependenciesOf,
  formAt,
} from "../levels.ts";
import { simplify } from "./simplify.ts";

/** A recurrent state of the attention, as callers and schedules see it. */
export interface State {
  readonly name: string;
  /** [K, V] of float32. */
  readonly type: TensorType;
  /** false: no mask, every token reads the whole sequence's state. */
  readonly causal: boolean;
  readonly reverse: boolean;
  /** null: ranges just add. */
  readonly decay: DecayAxis | null;
  /** The transition is diagonal plus some rank: ranges compose through [K, K] matrices only. */
  readonly dense: boolean;
  /** 0: it writes inputs only; n: reads of states of level n - 1 and below. See `levels.ts`. */
  readonly level: number;
  /** The states whose reads go into what this one writes. */
  readonly writesReadsOf: readonly string[];
}

export interface Form {
  readonly name:
    | "forward"
    | LevelFormName
    | `fold_${string}`
    | `compose_${string}`
    | "local"
    | "join"
    | "step"
    | "backward"
    | "backward_fixed";
  readonly program: Program;
  /** Only devices that cut sequences into segments run it. */
  readonly segments?: boolean;
  /** Of a summary of gradients, the level of its states: its loops are made of the gradient's. */
  readonly level?: number;
}

export interface Sharded {
  readonly states: readonly State[];
  readonly forms: readonly Form[];
}

export const shardName = "shard";
export const shardSummary = "derive the forms that ranges of the sequence are computed with";

/** `cacheEvery`: the forward also gives the states before each piece of so many tokens, for its gradient. */
export function shard(program: Program, cacheEvery: number | null = null): Sharded {
  const scans = scansOf(program);
  const dependencies = dependenciesOf(program);
  const states = [...scans.values()].map((scan) => {
    return { ...stateOf(program, scan), ...dependencies.get(scan.state)! };
  });
  const forms: Form[] = [{ name: "forward", program: forward(program, scans, states, null) }];
  for (const [level, own] of byLevel(states).entries()) {
    forms.push({ name: formAt("summary", level), program: summary(program, states, level) });
    if (own.some(({ dense }) => dense)) {
      const matrices = transition(program, states, level);
      forms.push({ name: formAt("transition", level), program: matrices });
    }
  }
  forms.push(...states.flatMap((state) => exchangeForms(program, state)));
  // One token at a time: where every token needs those before it only.
  const isStepwise = states.every((state) => state.causal && !state.reverse);
  if (isStepwise && !sumsTokens(program)) {
    forms.push({ name: "step", program: forms[0]!.program });
  }
  if (cacheEvery !== null) {
    forms[0] = { name: "forward", program: forward(program, scans, states, cacheEvery) };
  }
  return { states, forms };
}

/** One scan of each state; all of a state's write alike. */
export function scansOf(program: Program): ReadonlyMap<string, Scan> {
  const scans = new Map<string, Scan>();
  for (const op of program.ops) {
    if (op.kind === "scan" && !scans.has(op.state)) scans.set(op.state, op);
  }
  return scans;
}

/** Is there a sum over all tokens outside of scans? */
export function sumsTokens(program: Program): boolean {
  const typeOf = new Map(program.ops.map((op) => [op.id, op.type]));
  return program.ops.some(
    (op) => op.kind === "reduce" && op.axis === 0 && typeOf.get(op.arg)?.shape[0] === tokenDim,
  );
}

function stateOf(program: Program, scan: Scan): Omit<State, keyof Dependencies> {
  const opOf = (id: ValueId) => program.ops.find((op) => op.id === id)!;
  const typeOf = (id: ValueId) => opOf(id).type.shape;
  const [{ k, v }] = scan.writes as [Write];
  return {
    name: scan.state,
    type: { shape: [typeOf(k)[1]!, typeOf(v)[1]!] },
    causal: scan.causal,
    reverse: scan.reverse,
    decay: scan.logDecay === null ? null : scan.axis,
    dense: scan.writes.some((write) => opOf(write.v).kind === "delta"),
  };
}

/** Copies a program with every scan replaced; then what nobody reads goes, inputs included. */
function forward(
  program: Program,
  scans: ReadonlyMap<string, Scan>,
  states: readonly State[],
  cacheEvery: number | null,
): Program {
  const { rewriter, initials } = withFirstStates(program, states);
  const { build, get } = rewriter;
  const finals = states.map(({ name }) =>
    stateOutput(`final_${name}`, finalState(rewriter, scans.get(name)!, initials.get(name)!)),
  );
  const caches = states.flatMap(({ name, causal }): Output[] => {
    // Without a mask every token reads the last state: there is nothing on the way to it to keep.
    if (cacheEvery === null || !causal) return [];
    const value = finalState(rewriter, scans.get(name)!, initials.get(name)!, cacheEvery);
    return [{ label: `cache_${name}`, value, dtype: "f32", per: "chunk" }];
  });
  const copied = program.outputs.map((out) => ({ ...out, value: get(out.value) }));
  return prune(build.finish([...copied, ...finals, ...caches]), false);
}

/** A copy of a program in which scans of the given states begin with their inputs `initial_S`. */
function withFirstStates(program: Program, states: readonly State[]) {
  const rewriter = new Rewriter(program);
  const initials = new Map<string, ValueId>();
  for (const op of program.ops) if (op.kind === "input") rewriter.copy(op);
  for (const { name, type } of states) {
    initials.set(name, stateInput(rewriter.build, `initial_${name}`, type));
  }
  for (const op of program.ops) {
    if (op.kind === "input") continue;
    const initial = op.kind === "scan" || op.kind === "delta" ? initials.get(op.state) : undefined;
    if (initial === undefined) rewriter.copy(op);
    else copyScan(rewriter, op as Scan, initial);
  }
  return { rewriter, initials };
}

/** Copies a scan with a first state; one program may hold several scans of one state. */
function copyScan(rewriter: Rewriter, op: Scan | Delta, initial: ValueId): void {
  const { id: _id, type: _type, name, span, ...draft } = rewriter.mapped(op);
  rewriter.set(op.id, rewriter.build.add({ ...draft, initial }, { name, span }));
}

/** The state after the last token, or (`every`) those before each piece of so many tokens. */
function finalState(
  rewriter: Rewriter,
  scan: Scan,
  initial: ValueId | null,
  every: number | null = null,
): ValueId {
  const { state, axis, reverse } = scan;
  const { writes, logDecay } = rewriter.mapped(scan);
  return rewriter.build.add(
    { kind: "scan-state", state, writes, logDecay, initial, axis, reverse, every },
    { name: state, span: scan.span },
  );
}

/** What a range does to the states of a level, from those of lower levels that reach it. */
function summary(program: Program, states: readonly State[], level: number): Program {
  const scans = scansOf(program);
  const { rewriter } = withFirstStates(
    program,
    states.filter((state) => state.level < level),
  );
  const { build, get } = rewriter;
  const outputs: Output[] = [];
  for (const { name, decay, dense } of states.filter((state) => state.level === level)) {
    const scan = scans.get(name)!;
    outputs.push(stateOutput(`summary_${name}`, finalState(rewriter, scan, null)));
    // Of a dense transition the decay is a part: see `transition`.
    if (decay === null || dense) continue;
    const log = get(scan.logDecay!);
    const perToken = build.shapeOf(log)[0] === tokenDim;
    const each = perToken ? log : build.mul(build.const(1, [tokenDim, ...build.shapeOf(log)]), log);
    const origin = { name: `decay_${name}`, span: scan.span };
    const sum = build.add({ kind: "reduce", fn: "sum", arg: each, axis: 0 }, origin);
    outputs.push(stateOutput(`decay_${name}`, sum));
  }
  return prune(build.finish(outputs), true);
}

/**
 * What a range multiplies a state with where its transition is dense, [K, K]: the state that it makes of
 * the identity when it writes nothing of its own. Of the states of a level, from those of lower levels.
 */
function transition(program: Program, states: readonly State[], level: number): Program {
  const scans = scansOf(program);
  const opOf = new Map(program.ops.map((op) => [op.id, op]));
  const { rewriter } = withFirstStates(
    program,
    states.filter((state) => state.level < level),
  );
  const { build, get } = rewriter;
  const outputs: Output[] = [];
  for (const { name, type } of states.filter((own) => own.dense && own.level === level)) {
    const [key] = type.shape as readonly [Dim];
    const [ones, index] = [
      build.const(1, [key]),
      build.add({ kind: "iota" }, {}, { shape: [key] }),
    ];
    const along = (lhs: ValueId, rhs: ValueId) => build.add({ kind: "outer", lhs, rhs });
    const identity = build.map("eq", [along(index, ones), along(ones, index)]);
    const nothing = build.const(0, [tokenDim, key]);
    const scan = scans.get(name)!;
    const writes = scan.writes.flatMap(({ k, v }) => {
      const op = opOf.get(v)!;
      if (op.kind !== "delta") return [];
      const { id: _id, type: _type, span, ...draft } = rewriter.mapped(op);
      const silent = draft.writes.map((write) => ({ ...write, v: nothing }));
      const value = build.add({ ...draft, writes: silent, initial: identity }, { name, span });
      return [{ k: get(k), v: value }];
    });
    const { state, axis, reverse } = scan;
    const { logDecay } = rewriter.mapped(scan);
    const value = build.add(
      {
        kind: "scan-state",
        state,
        writes,
        logDecay,
        initial: identity,
        axis,
        reverse,
        every: null,
      },
      { name: `transition_${name}`, span: scan.span },
    );
    outputs.push(stateOutput(`transition_${name}`, value));
  }
  return prune(build.finish(outputs), true);
}

/**
 * Of the gradients, what a range adds to the cotangents of its first states of a level: `d_summary_S`, the
 * gradient `d_initial_S` for a last state that nothing reads. With it ranges compose backwards as summaries do
 * forwards (`fold`, from the last range to the first), and `backward` is what is left to run then. Cotangents
 * of higher levels have arrived by then: they reach a state through what those write of its reads.
 */
export function summaryOfGradient(
  gradient: Program,
  states: readonly State[],
  level: number,
): Program {
  const rewriter = new Rewriter(gradient);
  const { build, get } = rewriter;
  const silent = new Set(
    states.filter((state) => state.level <= level).map(({ name }) => `d_final_${name}`),
  );
  for (const op of gradient.ops) {
    if (op.kind !== "input" || !silent.has(op.label)) rewriter.copy(op);
    else rewriter.set(op.id, build.const(0, op.type.shape));
  }
  const own = states.filter((state) => state.level === level);
  const outputs = own.map(({ name }) => {
    const initial = gradient.outputs.find(({ label }) => label === `d_initial_${name}`)!;
    return { ...initial, label: `d_summary_${name}`, value: get(initial.value) };
  });
  const { run } = simplify;
  return prune(run(build.finish(outputs), new Report()), true);
}

/** Without what no output needs; `inputs`: unread inputs go too (they are the form's signature). */
export function prune(program: Program, inputs: boolean): Program {
  const live = new Set<ValueId>(program.outputs.map((out) => out.value));
  const ops: Op[] = [];
  for (const op of [...program.ops].reverse()) {
    // What a forward kept is the gradient's whether it is read or not: kernels and reference differ in that.
    const isSignature = op.kind === "input" && (!inputs || op.per === "chunk");
    const kept = live.has(op.id) || isSignature;
    if (!kept) continue;
    const isLoop = op.kind === "recurrence" || op.kind === "chunks";
    for (const id of [...operands(op), ...(isLoop ? captured(op.region) : [])]) live.add(id);
    ops.unshift(op);
  }
  return { ...program, ops };
}
