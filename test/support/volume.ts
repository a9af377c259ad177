/** What a schedule moves, by the formulas of docs/sequence-parallelism.md. */
import { blocks } from "../../compiler/schedule/allscan.ts";
import type { ExchangeName } from "../../compiler/schedule/index.ts";
import { factorOf } from "../../compiler/schedule/lane.ts";
import type { LaunchSizes } from "../../runtime/device.ts";
import { elementsOf } from "../../runtime/dtype.ts";
import type { Manifest } from "../../runtime/plan.ts";

export interface Volume {
  readonly bytes: number;
  readonly messages: number;
}

/** All ranks together, forwards and back, gradients of shared parameters included. */
export function volumeOf(
  manifest: Manifest,
  schedule: ExchangeName,
  ranks: number,
  { B, H, heads }: LaunchSizes,
): Volume {
  const volume = { bytes: 0, messages: 0 };
  const count = (messages: number, each: number) => {
    volume.messages += messages;
    volume.bytes += messages * each;
  };
  const rows = B * H * 4;
  for (const state of manifest.states) {
    const s = rows * elementsOf(state.dims);
    const factor = factorOf(manifest, state);
    const m = factor ? rows * elementsOf(factor.dims) : 0;
    // Forwards and back; without a mask both ways each time, for which one gathering will do.
    const ways = state.causal || schedule === "allgather" ? 2 : 4;
    if (schedule === "allgather") {
      count(ways * ranks * (ranks - 1), s);
      if (factor) count(ranks * (ranks - 1), m);
    } else if (schedule === "tree") {
      for (let d = 1; d < ranks; d *= 2) {
        // The first d ranks know their state; of the others' ranges the factor travels too.
        const known = Math.min(d, ranks - d);
        count(ways * (ranks - d), s);
        if (factor) count(ways * (ranks - d - known), m);
      }
    } else if (schedule === "allscan") count(ways * (ranks - 1) * blocks, s / blocks);
    else count(ways * (ranks - 1), s);
  }
  // Gradients of what all tokens share: every rank's to every other.
  const { outputs } = manifest.forms.find(({ name }) => name === "backward")!;
  for (const { name, per, dims, dtype, headsOf } of outputs) {
    if (per !== "head" && per !== "shared") continue;
    const own = per === "head" ? (heads[headsOf ?? name] ?? H) : 1;
    count(ranks * (ranks - 1), own * elementsOf(dims) * (dtype === "f32" ? 4 : 2));
  }
  return volume;
}
