/**
 * Segment: how the parts of one sequence, computed side by side on one device, hand on their states.
 *
 *   summary      of every segment                        -> summary_S[n], decay_S[n]
 *   exchange     initial_S, summary_S[], decay_S[]       -> segment_S[n], final_S
 *                  S = initial_S; for n: segment_S[n] = S; S = exp(decay_S[n]) * S + summary_S[n]
 *                  (a dense transition is a form of its own: S = transition_S[n] @ S + summary_S[n])
 *   forward      of every segment, from segment_S[n]     -> o
 *
 * and for the gradients the same from the last segment to the first:
 *
 *   summary_bwd  of every segment                        -> d_summary_S[n]
 *   exchange_bwd d_final_S, d_summary_S[], decay_S[]     -> d_segment_S[n], d_initial_S
 *   backward     of every segment, from both             -> d_q, d_k, ...
 *
 * These are the three stages of LASP, summarise / exchange / output, between the processors of a device in
 * place of devices. Where states write what is read of others, the first two go by levels (`levels.ts`). Segments are sequences of a packed launch, so the other forms are as they were; in the
 * exchange a segment counts as a token, and what is per segment is stored per chunk of one token.
 *
 * Needs: shard. Guarantees: the states of a segment are those of the whole sequence in exact arithmetic.
 */
import { noSpan } from "../../support/span.ts";
import { TensorBuilder } from "../build.ts";
import {
  type Dim,
  type Output,
  type Program,
  type ValueId,
  countsTokens,
  pieceDim,
} from "../ir.ts";
import { applied, factorOf } from "../exchange.ts";
import { byLevel, formAt } from "../levels.ts";
import { type Form, type State, sumsTokens } from "./shard.ts";

export const segmentName = "segment";
export const segmentSummary =
  "derive what hands on states between segments of a sequence on one device";

/**
 * Do the tokens of a segment need nothing of the others but states? Not where they read the whole
 * sequence's state or its sum of tokens, or count from where it begins.
 */
export function canSegment(program: Program, states: readonly State[]): boolean {
  const isCausal = states.every(({ causal }) => causal);
  return states.length > 0 && isCausal && !countsTokens(program) && !sumsTokens(program);
}

/** The forms that segments need beside those of ranges; `gradients`: to go back through them too. */
export function segmentForms(
  program: Program,
  states: readonly State[],
  gradients: boolean,
): readonly Form[] {
  const names = gradients ? (["exchange", "exchange_bwd"] as const) : (["exchange"] as const);
  return [...byLevel(states).entries()].flatMap(([level, own]) =>
    names.map((name) => {
      return { name: formAt(name, level), program: exchange(program, own, name), segments: true };
    }),
  );
}

/** The form for a direction, of the states of a level. Every state is causal. */
function exchange(
  program: Program,
  states: readonly State[],
  name: "exchange" | "exchange_bwd",
): Program {
  const isGradient = name === "exchange_bwd";
  const mark = isGradient ? "d_" : "";
  const [from, to] = isGradient ? ["d_final", "d_initial"] : ["initial", "final"];
  const build = new TensorBuilder(program.name, program.dims);
  const outputs: Output[] = [];
  for (const own of states) {
    const { name: state, type, reverse } = own;
    const input = (label: string, per: "state" | "chunk", dims: readonly Dim[]) => {
      const shape = per === "chunk" ? [pieceDim(1), ...dims] : dims;
      const origin = { name: label, span: noSpan };
      return build.add({ kind: "input", label, per, dtype: "f32", range: null }, origin, { shape });
    };
    const init = input(`${from}_${state}`, "state", type.shape);
    const summary = input(`${mark}summary_${state}`, "chunk", type.shape);
    const by = factorOf(own);
    const factor = by && input(by.label, "chunk", by.type.shape);
    const body = ([S]: readonly ValueId[]) => {
      const row = (arg: ValueId) => build.add({ kind: "rows", arg });
      const kept = factor === null ? S! : applied(build, own, row(factor), S!, isGradient);
      const name = `${to}_${state}`;
      return { carries: [build.map("add", [kept, row(summary)], { name })], yields: [] };
    };
    const carried = [{ name: `${mark}${state}`, type, init }];
    const backwards = reverse !== isGradient;
    const loop = build.region("chunks", carried, backwards, body, { longest: 1 });
    const each = build.checkpoint(loop.op, 0, 1, { name: `${mark}segment_${state}` });
    const state32 = { dtype: "f32", per: "state" } as const;
    outputs.push({ label: `${mark}segment_${state}`, value: each, dtype: "f32", per: "chunk" });
    outputs.push({ label: `${to}_${state}`, value: loop.carries[0]!, ...state32 });
  }
  return build.finish(outputs);
}
