/** Every schedule by its name. */
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { allgatherPlan } from "./allgather.ts";
import { backwardPlan } from "./ring-backward.ts";
import { ringPlan } from "./ring.ts";
import { verifyPlan } from "./verify.ts";

export const scheduleNames = ["ring", "allgather"] as const;
export type ScheduleName = (typeof scheduleNames)[number];

/** The verified plan for so many ranks, with gradients or without. Throws Unsupported, saying why. */
export function planOf(
  manifest: Manifest,
  schedule: ScheduleName,
  ranks: number,
  backward = false,
): Plan {
  const made = {
    ring: () => (backward ? backwardPlan(manifest, ranks) : ringPlan(manifest, ranks)),
    allgather: () => allgatherPlan(manifest, ranks, backward),
  };
  const plan = made[schedule]();
  verifyPlan(plan, manifest);
  return plan;
}
