/**
 * DeepSpeed-Ulysses: an all-to-all from tokens to heads, whole sequences, an all-to-all back.
 *
 *   reshard q, k, v and gates: tokens to heads
 *   launch  forward over heads
 *   reshard o: heads to tokens
 *
 * Each rank sends (P - 1) / P of its own part of every tensor. Needs no summaries and no particular rule, but
 * as many heads as ranks, or a multiple. Source: DeepSpeed-Ulysses, arXiv 2309.14509.
 */
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { headsPlan } from "./heads.ts";

export function ulyssesPlan(manifest: Manifest, ranks: number, backward = false): Plan {
  return headsPlan("ulysses", ["heads"], manifest, ranks, backward);
}
