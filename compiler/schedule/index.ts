/** Every schedule by its name. */
import type { Manifest, Mesh, Plan } from "../../runtime/plan.ts";
import { allgather } from "./allgather.ts";
import { allscan } from "./allscan.ts";
import type { Exchange } from "./lane.ts";
import { ring } from "./ring.ts";
import { type PlanOptions, planOfExchange } from "./stages.ts";
import { Unsupported } from "../support/never.ts";
import { megatronPlan } from "./megatron.ts";
import { ringAttentionPlan } from "./ring-attention.ts";
import { ulyssesPlan } from "./ulysses.ts";
import { tree } from "./tree.ts";
import { verifyPlan } from "./verify.ts";

const exchanges = { ring, allgather, allscan, tree } satisfies Record<string, Exchange>;
export type ExchangeName = keyof typeof exchanges;
export const exchangeNames = Object.keys(exchanges) as ExchangeName[];

/** What others do, for comparison: they move tokens or heads, not states. */
const peers = {
  ulysses: ulyssesPlan,
  megatron: megatronPlan,
  "ring-attention": ringAttentionPlan,
} satisfies Record<string, (manifest: Manifest, ranks: number, backward: boolean) => Plan>;
export type PeerName = keyof typeof peers;
export const peerNames = Object.keys(peers) as PeerName[];

export type ScheduleName = ExchangeName | PeerName;
export const scheduleNames: readonly ScheduleName[] = [...exchangeNames, ...peerNames];

/** The verified plan for so many ranks along the sequence, or a mesh. */
export function planOf(
  manifest: Manifest,
  schedule: ScheduleName,
  ranks: number | Mesh,
  backward = false,
  overlap = false,
): Plan {
  const mesh = typeof ranks === "number" ? { seq: ranks, data: 1 } : ranks;
  const plan = isExchange(schedule)
    ? planOfExchange(schedule, exchanges[schedule], manifest, mesh, { backward, overlap })
    : peerPlan(schedule, manifest, mesh, { backward, overlap });
  verifyPlan(plan, manifest);
  return plan;
}

/** Whether states are exchanged; the others, the peers, move tokens or heads. */
export function isExchange(schedule: ScheduleName): schedule is ExchangeName {
  return Object.hasOwn(exchanges, schedule);
}

function peerPlan(
  schedule: PeerName,
  manifest: Manifest,
  { seq, data }: Mesh,
  { backward, overlap }: PlanOptions,
): Plan {
  if (data > 1) throw new Unsupported(`${schedule} shares out sequences, not the batch: data=1`);
  if (overlap) throw new Unsupported(`${schedule} moves no states that a forward could wait for`);
  return peers[schedule](manifest, seq, backward);
}
