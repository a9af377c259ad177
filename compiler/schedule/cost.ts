/**
 * What schedules and launches cost, in seconds: an alpha-beta model of the exchange, and launches that take
 * a fixed time and what is longer, their bytes or their flops. `simulate.ts` runs whole plans on it; `scheduleCost` is the
 * closed form for choosing between them.
 */
import type { FormSpec, Manifest } from "../../runtime/plan.ts";
import { levelsOf } from "../../runtime/plan.ts";
import type { DeviceSpeed, Link } from "./fabrics.ts";
import { costliestTransition, decayOf, flopsOf } from "./flops.ts";
import { blocks } from "./allscan.ts";
import { type Sizes, tensorBytes } from "../../runtime/layout.ts";

/** Seconds of one launch over these sizes, every tensor read or written once. */
export function launchSeconds(
  form: FormSpec,
  manifest: Manifest,
  sizes: Sizes,
  speed: DeviceSpeed,
): number {
  const bytes = [...form.inputs, ...form.outputs].reduce(
    (sum, spec) => sum + tensorBytes(spec, sizes),
    0,
  );
  const transition = costliestTransition(manifest);
  const direction = /bwd|backward/.test(form.name) ? "backward" : "forward";
  const rows = sizes.B * sizes.H;
  const flops = flopsOf(form.name, manifest) * rows * sizes.T;
  const work = Math.max(bytes / speed.bytesPerS, flops / speed.flopsPerS[transition][direction]);
  if (rows >= speed.processors || isExchange(form.name)) return speed.launchS + work;
  // Few rows leave processors idle: as it is, or by segments, three launches and the summaries besides.
  const whole = ["forward", "backward"].includes(form.name);
  const segmented = work * (whole ? speed.segmented[transition][direction] : 1);
  const idle = (work * speed.processors) / rows;
  return Math.min(speed.launchS + idle, 3 * speed.launchS + segmented);
}

/** Forms on states alone: as many blocks as there are rows. */
function isExchange(form: string): boolean {
  return /^(fold|compose)_/.test(form);
}

/** What ranges of tokens are to each other: bytes for all sequences and heads, whatever T. */
export interface Payload {
  /** The states. */
  readonly state: number;
  /** Numbers that go with a summary where it travels without being folded: decays, or K x K matrices. */
  readonly transition: number;
}

export function payloadOf(manifest: Manifest, sizes: Pick<Sizes, "B" | "H">): Payload {
  const rows = 4 * sizes.B * sizes.H;
  let [state, transition] = [0, 0];
  for (const own of manifest.states) {
    const [K, V] = own.dims as [number, number];
    state += rows * K * V;
    const decay = decayOf(own, manifest);
    if (own.dense) transition += rows * K * K;
    else if (decay) transition += rows * decay.dims.reduce((product, size) => product * size, 1);
  }
  return { state, transition };
}

/** The exchange of one direction on its slowest rank, launches aside. */
export interface ExchangeCost {
  readonly seconds: number;
  readonly bytesReceived: number;
  /** Messages one after the other. */
  readonly latencies: number;
}

/** Null for a schedule it does not know. Sizes are those of the whole sequence. */
export function scheduleCost(
  manifest: Manifest,
  schedule: string,
  ranks: number,
  link: Link,
  sizes: Sizes,
): ExchangeCost | null {
  const none = { seconds: 0, bytesReceived: 0, latencies: 0 };
  if (ranks === 1) return none;
  const { state, transition } = payloadOf(manifest, sizes);
  const others = ranks - 1;
  // States that write what is read of others are exchanged after those: a round for each level.
  const levels = levelsOf(manifest.states).length;
  const doublings = Math.ceil(Math.log2(ranks));
  const of = (latencies: number, bytesInSequence: number, bytesReceived: number) => ({
    seconds: latencies * link.latencyS + bytesInSequence / link.bytesPerS,
    bytesReceived,
    latencies,
  });
  const inputs = tokenBytes(manifest, "forward", sizes);
  const outputs = manifest.outputs.reduce((sum, spec) => sum + tensorBytes(spec, sizes), 0);
  switch (schedule) {
    case "ring":
      return of(levels * others, others * state, state);
    case "allgather":
      return of(levels, others * (state + transition), others * (state + transition));
    case "allscan":
      return of(levels * others, state + (others * state) / blocks, state);
    case "tree": {
      const bytes = doublings * (state + transition);
      return of(levels * doublings, bytes, bytes);
    }
    case "ulysses": {
      const bytes = ((inputs + outputs) * others) / ranks / ranks;
      return of(2, bytes, bytes);
    }
    case "megatron": {
      const bytes = (inputs * others) / ranks + (outputs * others) / ranks / ranks;
      return of(2, bytes, bytes);
    }
    case "ring-attention": {
      const bytes = (tokenBytes(manifest, "summary", sizes) * others) / ranks;
      return of(others, bytes, bytes);
    }
    default:
      return null;
  }
}

/** Bytes of what a form reads for each token. */
function tokenBytes(manifest: Manifest, form: string, sizes: Sizes): number {
  const spec = manifest.forms.find(({ name }) => name === form);
  return (spec?.inputs ?? [])
    .filter(({ per }) => per === "token")
    .reduce((sum, tensor) => sum + tensorBytes(tensor, sizes), 0);
}
