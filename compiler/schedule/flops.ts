/** Multiplications and additions of a form, counted from the chunk algorithm of its states. */
import type { Manifest, StateSpec, TensorSpec } from "../../runtime/plan.ts";
import { formGiving } from "../../runtime/plan.ts";

/**
 * What a token does to a state: scale it (or leave it), scale each channel of it, or multiply it by a
 * matrix of diagonal plus low rank.
 */
export type Transition = "scalar" | "diagonal" | "dense";

/** Tokens of a chunk: on every target at 16 bits and heads of 128; per-channel decays allow no more than 32. */
const chunkTokens: Readonly<Record<Transition, number>> = { scalar: 64, diagonal: 32, dense: 64 };

export function transitionOf(state: StateSpec, manifest: Manifest): Transition {
  if (state.dense) return "dense";
  const decay = decayOf(state, manifest);
  return decay && decay.dims.length > 0 ? "diagonal" : "scalar";
}

/** The log decays of a range that a summary gives, where there are any. */
export function decayOf({ logDecay }: StateSpec, manifest: Manifest): TensorSpec | null {
  const summary = logDecay === null ? null : formGiving(manifest, logDecay);
  return summary?.outputs.find(({ name }) => name === logDecay) ?? null;
}

/** The costliest transition of an attention's states. */
export function costliestTransition(manifest: Manifest): Transition {
  const all = manifest.states.map((state) => transitionOf(state, manifest));
  return (["dense", "diagonal"] as const).find((one) => all.includes(one)) ?? "scalar";
}

/** For one token and head. Row-wise code around the scan is not counted; a fold is bytes alone. */
export function flopsOf(form: string, manifest: Manifest): number {
  const [, base, level] = /^(.*?)(?:_level_(\d+))?$/.exec(form)!;
  const own = Number(level ?? 0);
  return manifest.states.reduce((sum, state) => {
    if (!byLevel.has(base!)) return sum + stateFlops(form, state, manifest);
    if (state.level > own) return sum;
    // A summary of one level reads the states of those below it, as the forward does.
    return sum + stateFlops(state.level === own ? base! : "forward", state, manifest);
  }, 0);
}

/** Forms that there is one of for each level of states. */
const byLevel: ReadonlySet<string> = new Set(["summary", "transition", "summary_bwd"]);

function stateFlops(form: string, state: StateSpec, manifest: Manifest): number {
  const [K, V] = state.dims as [number, number];
  const transition = transitionOf(state, manifest);
  const C = chunkTokens[transition];
  // Scores under per-channel decays are two products in bf16: blocks of 16 tokens, and what lies between two of them.
  const scores = transition === "diagonal" ? 2 : 1;
  const update = 2 * K * V;
  const read = state.causal ? 2 * C * (scores * K + V) + 2 * K * V : 2 * K * V;
  const delta = transition === "dense" ? 2 * C * (K + V) + C * V + 2 * K * V : 0;
  switch (form) {
    case "forward":
      return read + update + delta;
    case "summary":
      return update + delta;
    case "transition":
      return transition === "dense" ? 4 * K * K + 5 * C * K : 0;
    case "local":
      return read - 2 * K * V + update + delta;
    case "join":
      return 2 * K * V + delta;
    case "summary_bwd":
      return update + delta;
    case "backward":
      // Scores and their cotangents, three products with them; the states again, and five products with states.
      return 2 * C * (3 * scores * K + 2 * V) + 10 * K * V + 2.5 * delta;
    default:
      return 0;
  }
}
