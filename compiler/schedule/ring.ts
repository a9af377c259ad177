/**
 * The ring of LASP: a chain of states, rank to rank.
 *
 *   launch summary                              needs keys, values and gates only: before any recv
 *   recv   initial_S from the rank before
 *   launch fold                                 final = decay * initial + summary
 *   send   to the rank after                    before the outputs: nobody waits for those
 *   launch forward with initial_S
 *
 * One message of B x H x K x V x 4 bytes for each pair of neighbours, whatever the length. Without a
 * mask the chain ends with the whole sequence's state, which then travels back down, and `output`
 * takes the place of `forward`. A dense transition (a delta rule) has no summary of K x V numbers: each
 * rank then runs `forward` on the state it receives and sends the final one on. Source: LASP, arXiv 2404.02882, algorithm 2 (whose released code
 * receives before it computes anything; here the summary is ready by then).
 */
import type { Manifest, Plan, RankPlan, StateSpec } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { StepWriter } from "./writer.ts";

export function ringPlan(manifest: Manifest, ranks: number): Plan {
  return {
    name: `ring-${ranks}`,
    schedule: "ring",
    ranks: Array.from({ length: ranks }, (_, rank) => rankPlan(manifest, rank, ranks)),
  };
}

/** A rank's place in the chain of a state. */
interface Place {
  readonly isFirst: boolean;
  readonly isLast: boolean;
  readonly before: number;
  readonly after: number;
}

export function placeOf({ reverse }: StateSpec, rank: number, ranks: number): Place {
  const step = reverse ? -1 : 1;
  const [first, last] = reverse ? [ranks - 1, 0] : [0, ranks - 1];
  return {
    isFirst: rank === first,
    isLast: rank === last,
    before: rank - step,
    after: rank + step,
  };
}

function rankPlan(manifest: Manifest, rank: number, ranks: number): RankPlan {
  const writer = new StepWriter(manifest);
  if (manifest.states.some((state) => !state.causal) && ranks > 1) {
    wholeSteps(writer, manifest, rank, ranks);
  } else forwardSteps(writer, manifest, rank, ranks, false);
  return { rank, steps: writer.finish(manifest) };
}

/**
 * The forward of causal states. With `keeps`, for the gradients, `initial_*` stays, and so does `decay_*`
 * where there are summaries.
 */
export function forwardSteps(
  writer: StepWriter,
  manifest: Manifest,
  rank: number,
  ranks: number,
  keeps: boolean,
): void {
  const { states } = manifest;
  const placeFor = (state: StateSpec) => placeOf(state, rank, ranks);
  if (ranks === 1 || states.length === 0) {
    writer.launch("forward");
    return;
  }
  const isDense = states.some(({ dense }) => dense);
  if (isDense) checkDirections(states);
  const folds = !isDense && states.some((state) => !placeFor(state).isLast);
  const needsDecays = keeps && !isDense && states.some(({ logDecay }) => logDecay !== null);
  if (folds || needsDecays) writer.launch("summary");
  states.forEach((state, tag) => {
    const { isFirst, before } = placeFor(state);
    if (!isFirst) writer.recv(`initial_${state.name}`, state.dims, before, tag);
  });
  if (folds) writer.launch("fold", renamed(states, "final", "folded"));
  writer.freeAll((name) => name.startsWith("summary_"));
  if (!keeps) writer.freeAll((name) => name.startsWith("decay_"));
  const sendAll = (label: string) =>
    states.forEach((state, tag) => {
      const { isLast, after } = placeFor(state);
      if (!isLast) writer.send(`${label}_${state.name}`, after, tag);
    });
  if (folds) sendAll("folded");
  // Freeing waits for the send, so it stands behind the output, which does not.
  writer.launch("forward");
  // Down the chain with whole forwards: what a dense transition needs.
  if (isDense) sendAll("final");
  writer.freeAll((name) => name.startsWith("folded_"));
  // Every rank's forward gives a final state; only the chain's last is the sequence's.
  writer.freeAll((name) => states.some((s) => name === `final_${s.name}` && !placeFor(s).isLast));
  if (!keeps) writer.freeAll((name) => name.startsWith("initial_"));
}

/** Args of a launch that call `from_S` `to_S`, for all states. */
export function renamed(
  states: readonly StateSpec[],
  from: string,
  to: string,
): Record<string, string> {
  return Object.fromEntries(states.map(({ name }) => [`${from}_${name}`, `${to}_${name}`]));
}

/** Without a mask: up the chain to the whole sequence's state, and back down. */
function wholeSteps(writer: StepWriter, manifest: Manifest, rank: number, ranks: number): void {
  const { states } = manifest;
  const placeFor = (state: StateSpec) => placeOf(state, rank, ranks);
  writer.launch("summary");
  states.forEach((state, tag) => {
    const { isFirst, before } = placeFor(state);
    if (!isFirst) writer.recv(`initial_${state.name}`, state.dims, before, tag);
  });
  writer.launch("fold", renamed(states, "final", "folded"));
  writer.freeAll((name) => name.startsWith("summary_") || name.startsWith("decay_"));
  states.forEach((state, tag) => {
    const { isLast, after } = placeFor(state);
    if (!isLast) writer.send(`folded_${state.name}`, after, tag);
  });
  states.forEach((state, tag) => {
    const total = `total_${state.name}`;
    const { isFirst, isLast, before, after } = placeFor(state);
    if (state.causal) return;
    if (isLast) writer.rename(`folded_${state.name}`, total);
    else writer.recv(total, state.dims, after, states.length + tag);
    if (!isFirst) writer.send(total, before, states.length + tag);
  });
  writer.launch("output");
  for (const state of states) {
    const total = state.causal ? `folded_${state.name}` : `total_${state.name}`;
    if (placeFor(state).isLast) writer.rename(total, `final_${state.name}`);
  }
  writer.freeAll((name) => /^(folded|total|initial)_/.test(name));
}

function checkDirections(states: readonly StateSpec[]): void {
  if (new Set(states.map(({ reverse }) => reverse)).size === 1) return;
  const names = states.map(({ name }) => name).join(" and ");
  throw new Unsupported(
    `the states ${names} run in both directions and one is dense: no chain can carry them yet`,
  );
}
