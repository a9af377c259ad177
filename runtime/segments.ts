/**
 * Cuts sequences into segments that one device computes side by side, where batch x heads alone would leave
 * processors idle. The launches that then stand for a form come with the artifact (`Manifest.segments`).
 */
import type { DeviceBuffer, LaunchSizes } from "./device.ts";
import { shapeOf } from "./device.ts";
import type { IntraValues } from "./intra.ts";
import type { Dtype, FormSpec, KernelSpec, Manifest, SegmentLaunch } from "./plan.ts";
import { ownOf } from "./records.ts";

/** Tokens of a segment: of the device's choice, never cut, or given. */
export type SegmentTokens = "auto" | "never" | number;

/**
 * Costs in the time a kernel takes for one token, as measured on an H200 (docs/performance.md): what each of
 * the summaries adds to a segment's own work; the first chunk of a kernel; two more launches; one more step
 * of the exchange. Ends of segments lie on whole chunks.
 */
const [summary, fill, launches, step, shortest] = [0.5, 64, 100, 16, 256];
/** Tokens that a whole number of chunks has on every target. */
export const alignment = 128;
/** Segments that are tried: as many as keep the processors busy so many times. */
const rounds = [0.5, 1, 2, 3, 5, 8];

/** What a form is on a device. */
export interface Work {
  /** Blocks that run side by side. */
  readonly processors: number;
  /** Blocks that one head of one sequence is computed in anyway. */
  readonly columns: number;
  /** Summaries that a segment needs before its own work. */
  readonly summaries: number;
}

/** Tokens that a segment should have, or null: whole sequences are faster. Depends on its arguments alone. */
export function segmentLength(
  { B, T, H, cuSeqlens }: LaunchSizes,
  { processors, columns, summaries }: Work,
): number | null {
  const tokens = cuSeqlens ? Math.ceil(T / Math.max(1, B)) : T;
  const blocks = Math.max(1, B * H * columns);
  const turns = (segments: number) => Math.ceil((segments * blocks) / processors);
  let best: { cost: number; length: number | null } = { cost: turns(1) * tokens, length: null };
  for (const busy of rounds) {
    const n = Math.min(
      Math.floor(Math.floor(busy * processors) / blocks),
      Math.floor(tokens / shortest),
    );
    if (n < 2) continue;
    const length = Math.ceil(tokens / n / alignment) * alignment;
    const cost = (1 + summary * summaries) * turns(n) * (length + fill) + launches + step * n;
    if (cost < best.cost) best = { cost, length };
  }
  return best.length;
}

/** Blocks that a form's kernels cut one head of one sequence into; of tokens they cut none. */
export function columnsOf(kernels: readonly KernelSpec[]): number {
  const columns = kernels.map(({ grid }) =>
    grid.slice(1).reduce((product, { of, by }) => {
      const extent = of.reduce<number>((p, factor) => p * (factor as number), 1);
      return product * (Number.isNaN(extent) ? 1 : Math.ceil(extent / by));
    }, 1),
  );
  return Math.max(1, ...columns);
}

/** Summaries among the launches that stand for a form. */
export function summariesOf(launches: readonly SegmentLaunch[]): number {
  return launches.filter(({ over, part }) => over === "segments" && !part).length - 1;
}

/**
 * The sizes of launches over segments, each a sequence of its own, and over sequences, in which a segment
 * counts as a token. Of packed sequences each is followed by an empty segment, as what is stored per token
 * there has one place more for each sequence.
 */
export function cutSegments(
  sizes: LaunchSizes,
  length: number,
): Readonly<Record<SegmentLaunch["over"], LaunchSizes>> {
  const { B, T, cuSeqlens } = sizes;
  if (cuSeqlens) {
    const cuts = [0];
    const counts = [0];
    for (let b = 0; b < B; b++) {
      const [from, to] = [cuSeqlens[b]!, cuSeqlens[b + 1]!];
      for (let at = from + length; at < to + length; at += length) cuts.push(Math.min(at, to));
      counts.push(counts[b]! + Math.ceil((to - from) / length));
      cuts.push(to);
    }
    return {
      segments: { ...sizes, B: cuts.length - 1, cuSeqlens: cuts },
      sequences: { ...sizes, T: counts[B]!, T_total: counts[B]!, cuSeqlens: counts },
    };
  }
  const count = Math.ceil(T / length);
  const sequences = { ...sizes, T: count, T_total: count };
  if (T % length === 0) {
    return { segments: { ...sizes, B: B * count, T: length, T_total: length }, sequences };
  }
  const cuts = [0];
  for (let b = 0; b < B; b++) {
    for (let n = 1; n <= count; n++) cuts.push(b * T + Math.min(n * length, T));
  }
  const tokens = B * T;
  return {
    segments: { ...sizes, B: B * count, T: tokens, T_total: tokens, cuSeqlens: cuts },
    sequences,
  };
}

/** What launching by segments needs of a device. */
export interface SegmentHost {
  alloc(dtype: Dtype, shape: readonly number[]): DeviceBuffer;
  /** The same memory with another shape of as many elements. */
  view(buffer: DeviceBuffer, shape: readonly number[]): DeviceBuffer;
  /** `intra`: values known from earlier launches, to which this one adds its own. */
  launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
    intra: IntraValues,
    part: SegmentLaunch["part"],
  ): Promise<void>;
  free(buffer: DeviceBuffer): void;
}

/** Launches what stands for a form whose tensors are `args`, by segments of `length` tokens. */
export async function launchSegments(
  manifest: Manifest,
  form: FormSpec,
  args: ReadonlyMap<string, DeviceBuffer>,
  sizes: LaunchSizes,
  length: number,
  host: SegmentHost,
): Promise<void> {
  const sizesOf = cutSegments(sizes, length);
  const between = new Map<string, DeviceBuffer>();
  const intra: IntraValues = new Map();
  for (const launch of ownOf(manifest.segments, form.name)!) {
    const whole = manifest.forms.find(({ name }) => name === launch.form)!;
    const own = launch.part === "intra" ? withoutStates(whole) : whole;
    const bound = new Map<string, DeviceBuffer>();
    for (const spec of [...own.inputs, ...own.outputs]) {
      const name = ownOf(launch.args, spec.name) ?? spec.name;
      const shape = shapeOf(spec, sizesOf[launch.over]);
      const known = args.get(name) ?? between.get(name);
      const buffer = known ?? host.alloc(spec.dtype, shape);
      if (!known) between.set(name, buffer);
      bound.set(spec.name, host.view(buffer, shape));
    }
    await host.launch(own, bound, sizesOf[launch.over], intra, launch.part);
  }
  for (const buffer of [...between.values(), ...intra.values()]) host.free(buffer);
}

/** What intra-chunk values of a form are made of. */
function withoutStates({ name, inputs }: FormSpec): FormSpec {
  return { name, inputs: inputs.filter(({ per }) => per !== "state"), outputs: [] };
}
