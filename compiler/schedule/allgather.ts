/**
 * LASP-2: every rank gets the summaries of all others at once and folds those before it itself.
 *
 *   launch summary                  needs keys, values and gates only
 *   launch fold_S                   on the first rank of the chain, whose state is then known
 *   allgather summary_S, and what ranges multiply states with
 *   launch fold_S                   once for each rank before this one
 *
 * One latency in place of the ring's P - 1, for P - 1 states received; folded in the ring's order, so the numbers are the
 * ring's, bit for bit. Source: LASP-2, arXiv 2502.07563, whose states have no decay; with one the prefix is weighted.
 */
import type { Lane } from "./lane.ts";

export function allgather(lane: Lane): void {
  const { place, isFirst, own, given, factor } = lane;
  lane.summarise();
  const known = isFirst ? lane.fold(given, own, null, lane.temporary("passed")) : own;
  const states = lane.allgatherStates(known);
  const factors = factor && lane.allgatherFactors();
  let state = states[0]!;
  for (let before = 1; before < place; before++) {
    const into = lane.temporary(`folded_${before}`);
    state = lane.fold(state, states[before]!, factors?.[before] ?? null, into);
  }
  if (!isFirst) lane.result = state;
}
