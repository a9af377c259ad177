/** Every schedule by its name. */
import type { Manifest, Mesh, Plan } from "../../runtime/plan.ts";
import { allgather } from "./allgather.ts";
import { allscan } from "./allscan.ts";
import type { Exchange } from "./lane.ts";
import { ring } from "./ring.ts";
import { planOfExchange } from "./stages.ts";
import { tree } from "./tree.ts";
import { verifyPlan } from "./verify.ts";

const exchanges = { ring, allgather, allscan, tree } satisfies Record<string, Exchange>;
export type ScheduleName = keyof typeof exchanges;
export const scheduleNames = Object.keys(exchanges) as ScheduleName[];

/** The verified plan for so many ranks along the sequence, or a mesh. */
export function planOf(
  manifest: Manifest,
  schedule: ScheduleName,
  ranks: number | Mesh,
  backward = false,
  overlap = false,
): Plan {
  const mesh = typeof ranks === "number" ? { seq: ranks, data: 1 } : ranks;
  const plan = planOfExchange(schedule, exchanges[schedule], manifest, mesh, { backward, overlap });
  verifyPlan(plan, manifest);
  return plan;
}
