/**
 * Megatron's sequence parallelism: every rank gathers the whole sequence, and computes its share of the heads.
 *
 *   reshard q, k, v and gates: tokens to whole  an all-gather
 *   reshard the same: whole to heads            here, nothing is sent
 *   launch  forward over heads
 *   reshard o: heads to tokens
 *
 * Each rank sends P - 1 times its own part of every input. In Megatron the gather is of the layer's input, one
 * tensor from which q, k and v are made afterwards, and the way back is the reduce-scatter of the output
 * projection; an attention alone has neither. Source: arXiv 2205.05198.
 */
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { headsPlan } from "./heads.ts";

export function megatronPlan(manifest: Manifest, ranks: number, backward = false): Plan {
  return headsPlan("megatron", ["whole", "heads"], manifest, ranks, backward);
}
