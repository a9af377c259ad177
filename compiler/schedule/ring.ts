/**
 * The ring of LASP: a chain of states, rank to rank.
 *
 *   launch summary                  needs keys, values and gates only: before any recv
 *   recv   initial_S from the rank before
 *   launch fold_S                   passed = factor * initial + summary
 *   send   to the rank after        before the outputs: nobody waits for those
 *
 * One message of B x H x K x V x 4 bytes for each pair of neighbours, whatever the length; what a range multiplies a
 * state with stays on its rank. Source: LASP, arXiv 2404.02882, algorithms 2 and 3 (whose released code receives
 * before it computes anything; here the summary is ready by then).
 */
import type { Lane } from "./lane.ts";

export function ring(lane: Lane): void {
  const { place, isFirst, isLast, own, result } = lane;
  if (!isLast) lane.summarise();
  if (!isFirst) lane.recv(result!, place - 1);
  if (!isLast) lane.send(lane.fold(result, own, null, lane.temporary("passed")), place + 1);
}
