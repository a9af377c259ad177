/**
 * The forward and then the gradients of all inputs, along the ring of LASP.
 *
 *   the forward, which keeps initial_S (and decay_S)
 *   launch summary_bwd                          what this range adds to the cotangent of its first state
 *   recv   d_final_S from the rank after
 *   launch fold                                 passed = decay * d_final + d_summary
 *   send   to the rank before                   before the gradients: nobody waits for those
 *   launch backward with initial_S and d_final_S
 *
 * One more message of B x H x K x V x 4 bytes for each pair of neighbours. A dense transition has no summary:
 * `backward` itself then gives what is passed on, rank after rank. Gradients of what all tokens share are
 * each rank's part of a sum. Source: LASP, arXiv 2404.02882, algorithm 3.
 */
import type { Manifest, Plan, RankPlan, StateSpec } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { forwardSteps, placeOf, renamed } from "./ring.ts";
import { StepWriter } from "./writer.ts";

/** Throws Unsupported where several ranks cannot give the gradients yet. */
export function backwardPlan(manifest: Manifest, ranks = 1): Plan {
  const { states } = manifest;
  if (ranks > 1) {
    const whole = states.find(({ causal }) => !causal);
    if (whole) {
      throw new Unsupported(
        `every token reads all of ${whole.name}: its gradients run on one device`,
      );
    }
    if (new Set(states.map(({ reverse }) => reverse)).size > 1) {
      const names = states.map(({ name }) => name).join(" and ");
      throw new Unsupported(
        `the states ${names} run in both directions: their gradients run on one device`,
      );
    }
  }
  return {
    name: `backward-${ranks}`,
    schedule: "ring",
    ranks: Array.from({ length: ranks }, (_, rank) => rankPlan(manifest, rank, ranks)),
  };
}

function rankPlan(manifest: Manifest, rank: number, ranks: number): RankPlan {
  const { states } = manifest;
  const writer = new StepWriter(manifest);
  const placeFor = (state: StateSpec) => placeOf(state, rank, ranks);
  const isDense = states.some(({ dense }) => dense);
  forwardSteps(writer, manifest, rank, ranks, true);
  const passes = states.some((state) => !placeFor(state).isFirst);
  if (passes && !isDense) writer.launch("summary_bwd");
  // Tags go on where the forward's end.
  const tagOf = (tag: number) => states.length + tag;
  states.forEach((state, tag) => {
    const { isLast, after } = placeFor(state);
    if (!isLast) writer.recv(`d_final_${state.name}`, state.dims, after, tagOf(tag));
  });
  if (passes && !isDense) {
    writer.launch("fold", {
      ...renamed(states, "initial", "d_final"),
      ...renamed(states, "summary", "d_summary"),
      ...renamed(states, "final", "passed"),
    });
  }
  const sendAll = (label: string) =>
    states.forEach((state, tag) => {
      const { isFirst, before } = placeFor(state);
      if (!isFirst) writer.send(`${label}_${state.name}`, before, tagOf(tag));
    });
  if (!isDense) sendAll("passed");
  writer.launch("backward");
  if (isDense) sendAll("d_initial");
  writer.freeAll((name) => /^(d_summary|passed|decay|d_final|initial)_/.test(name));
  writer.freeAll((name) =>
    states.some((s) => name === `d_initial_${s.name}` && !placeFor(s).isFirst),
  );
  return { rank, steps: writer.finish(manifest) };
}
