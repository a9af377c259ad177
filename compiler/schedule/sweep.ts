/** What every schedule does over lengths and numbers of devices, alone or with a model around the attention. */
import type { Sizes } from "../../runtime/layout.ts";
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { slowestLink } from "./fabrics.ts";
import { type ScheduleName, isExchange, planOf, scheduleNames } from "./index.ts";
import { type Machine, simulate } from "./simulate.ts";

/** A transformer whose attentions these are: its weights are shared out over all devices (FSDP, ZeRO-3). */
export interface Model {
  readonly parameters: number;
  readonly layers: number;
  /** The width of a token between layers. */
  readonly hidden: number;
  /** Tokens that the last layer chooses from. */
  readonly vocabulary: number;
}

export interface SweepAxes {
  readonly tokens: readonly number[];
  readonly devices: readonly number[];
}

export interface SweepPoint {
  readonly tokens: number;
  readonly devices: number;
  readonly schedule: ScheduleName;
  /** Devices that share one sequence; the others have sequences of their own. */
  readonly perSequence: number;
  /** Of all devices together. */
  readonly tokensPerS: number;
  /** Of the device that needs most. */
  readonly memoryBytes: number;
  readonly fits: boolean;
}

/** A schedule at a number of devices that no length can be simulated for. */
export interface Unswept {
  readonly devices: number;
  readonly schedule: ScheduleName;
  readonly why: string;
}

export interface Sweep {
  readonly points: readonly SweepPoint[];
  readonly unsupported: readonly Unswept[];
}

/**
 * Bytes that a token leaves for the backward in a layer, for each number of its width, in 16 bits and nothing
 * recomputed: Korthikanti et al., arXiv 2205.05198, without the scores, which linear attention does not keep.
 */
const activationBytes = 34;
/** Weights in 16 bits and their gradients, and float32 weights with Adam's two moments. */
const stateBytes = 16;
const weightBytes = 2;
/** A float32 for each token of the vocabulary: what the loss is computed from. */
const logitBytes = 4;

/** `B` sequences, each over as many devices as the schedule can use, up to all of them. */
export function sweep(
  manifest: Manifest,
  { B, H }: Pick<Sizes, "B" | "H">,
  { tokens, devices }: SweepAxes,
  machine: Machine,
  backward: boolean,
  model: Model | null,
): Sweep {
  const points: SweepPoint[] = [];
  const unsupported: Unswept[] = [];
  for (const count of devices) {
    for (const schedule of scheduleNames) {
      // Whole heads on every device: no more of them than there are heads.
      const perSequence = isExchange(schedule) ? count : largestShare(count, H, schedule);
      try {
        const plan = planOf(manifest, schedule, perSequence, backward);
        for (const T of tokens) {
          const at = { plan, sizes: { B, T, H }, devices: count, perSequence };
          const { seconds, memoryBytes } = pointOf(manifest, at, machine, backward, model);
          points.push({
            tokens: T,
            devices: count,
            schedule,
            perSequence,
            tokensPerS: (B * T * (count / perSequence)) / seconds,
            memoryBytes,
            fits: memoryBytes <= machine.speed.memoryBytes,
          });
        }
      } catch (error) {
        if (!(error instanceof Unsupported)) throw error;
        unsupported.push({ devices: count, schedule, why: error.message });
      }
    }
  }
  return { points, unsupported };
}

function largestShare(devices: number, heads: number, schedule: ScheduleName): number {
  if (schedule === "ring-attention") return devices;
  let share = Math.min(devices, heads);
  while (devices % share !== 0 || heads % share !== 0) share--;
  return share;
}

interface PlanAt {
  readonly plan: Plan;
  readonly sizes: Sizes;
  readonly devices: number;
  readonly perSequence: number;
}

function pointOf(
  manifest: Manifest,
  { plan, sizes, devices, perSequence }: PlanAt,
  machine: Machine,
  backward: boolean,
  model: Model | null,
): { seconds: number; memoryBytes: number } {
  const attention = simulate(plan, manifest, sizes, machine);
  const memoryBytes = Math.max(...attention.peakBytes);
  if (model === null) return { seconds: attention.seconds, memoryBytes };
  const { parameters, layers, hidden, vocabulary } = model;
  const own = Math.ceil((sizes.B * sizes.T) / perSequence);
  const kept = (backward ? activationBytes * hidden * layers : 0) + logitBytes * vocabulary;
  const states = ((backward ? stateBytes : weightBytes) * parameters) / devices;
  return {
    seconds: layers * attention.seconds + restSeconds(model, own, devices, machine, backward),
    memoryBytes: memoryBytes + kept * own + states,
  };
}

/** Products with the weights beside their gathering, and the reduction of their gradients. */
function restSeconds(
  { parameters }: Model,
  tokens: number,
  devices: number,
  { fabric, speed }: Machine,
  backward: boolean,
): number {
  const products = ((backward ? 6 : 2) * parameters * tokens) / speed.matmulFlopsPerS;
  const times = backward ? 3 : 1;
  const moved = (times * weightBytes * parameters * (devices - 1)) / devices;
  return Math.max(products, moved / slowestLink(fabric, devices).bytesPerS);
}

/** The longest of the lengths that fit, for a schedule on so many devices; 0: none does. */
export function longest({ points }: Sweep, schedule: ScheduleName, devices: number): number {
  return Math.max(
    0,
    ...points
      .filter((point) => point.schedule === schedule && point.devices === devices && point.fits)
      .map(({ tokens }) => tokens),
  );
}
