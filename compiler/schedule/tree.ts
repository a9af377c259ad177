/**
 * An exclusive scan in log2(P) rounds (Hillis and Steele): in round r a rank hears of the 2^r ranks that end 2^r before it.
 *
 *   for d = 1, 2, 4, ... < P:
 *     send   what this rank and those before it, d in all, add up to, to the rank d after
 *     recv   the same from the rank d before
 *     launch fold_S                 prefix = factor of the prefix * received + prefix
 *     launch compose_S              the factor of both
 *
 * What reaches back to the chain's first rank is a state as it is; only what does not is sent with its factor. Source:
 * Hillis and Steele, Data parallel algorithms, 1986.
 */
import type { Lane } from "./lane.ts";

/** What a run of ranks adds up to; without a factor it reaches back to the first. */
interface Range {
  readonly state: string;
  readonly factor: string | null;
}

export function tree(lane: Lane): void {
  const { place, length, isFirst, isLast, own, given, factor } = lane;
  if (!isFirst || !isLast) lane.summarise();
  const mine: Range = isFirst
    ? { state: lane.fold(given, own, null, lane.temporary("known")), factor: null }
    : { state: own, factor: factor?.name ?? null };
  const join = (before: Range, after: Range, name: string): Range => {
    const state = lane.fold(before.state, after.state, after.factor, name);
    if (factor === null || before.factor === null) return { state, factor: null };
    lane.compose(before.factor, after.factor!, `factor_${name}`);
    return { state, factor: `factor_${name}` };
  };
  // What comes before this rank, and that with the rank itself.
  let prefix: Range | null = null;
  let whole = mine;
  for (let round = 0; 2 ** round < length; round++) {
    const distance = 2 ** round;
    // The run of ranks up to a place begins at the chain's first one.
    const isKnown = (end: number) => end - distance + 1 <= 0;
    if (place + distance < length) {
      lane.send(whole.state, place + distance);
      if (factor && !isKnown(place)) lane.sendFactor(whole.factor!, place + distance);
    }
    const from = place - distance;
    if (from < 0) continue;
    const name = lane.temporary(`heard_${round}`);
    const heard: Range = {
      state: name,
      factor: factor && !isKnown(from) ? `factor_${name}` : null,
    };
    lane.recv(heard.state, from);
    if (heard.factor !== null) lane.recvFactor(heard.factor, from);
    prefix = prefix === null ? heard : join(heard, prefix, lane.temporary(`prefix_${round}`));
    const isUsed = place + 2 * distance < length;
    if (isUsed) whole = join(prefix, mine, lane.temporary(`whole_${round}`));
  }
  if (prefix !== null) lane.result = prefix.state;
}
