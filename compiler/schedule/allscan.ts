/**
 * The All-Scan of ZeCO: the ring's chain, each state in blocks, so that a block travels on while the next one comes.
 *
 *   for each block of (sequence, head) pairs:
 *     recv   the block of initial_S from the rank before
 *     launch fold_S on the block
 *     send   it to the rank after
 *
 * The ring's bytes in (P - 1) latencies of a block and one whole state's time. Source: ZeCO, arXiv 2507.01004, which cuts
 * along the state's key axis; pairs of sequence and head are apart in memory and in every transition, dense ones too.
 */
import type { Lane } from "./lane.ts";

/** Blocks of a state. More hide more of its length and add latencies: about sqrt(P s / (bandwidth latency)). */
export const blocks = 4;

export function allscan(lane: Lane): void {
  const { place, isFirst, isLast, own, result } = lane;
  if (!isLast) lane.summarise();
  for (let index = 0; index < blocks; index++) {
    const part = { index, of: blocks };
    if (!isFirst) lane.recv(result!, place - 1, part);
    if (isLast) continue;
    lane.send(lane.fold(result, own, null, lane.temporary("passed"), part), place + 1, part);
  }
}
