/** Walks a plan: one rank on one device, or all ranks of a process together. */
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "./device.ts";
import { shapeOf } from "./device.ts";
import { elementsOf, fromNumbers, newData, toNumbers } from "./dtype.ts";
import type { Manifest, Plan, RankPlan, Step, TensorSpec } from "./plan.ts";
import { cotangentsOf } from "./plan.ts";
import type { Transport } from "./transport.ts";

/** When a step ran, in milliseconds since the rank started. */
export interface StepTime {
  readonly rank: number;
  readonly step: number;
  readonly startMs: number;
  readonly endMs: number;
}

export interface RankRun {
  readonly plan: RankPlan;
  readonly manifest: Manifest;
  readonly device: Device;
  readonly transport: Transport;
  /** The attention's inputs, token tensors cut to this rank's tokens, and `initial_*` where given. */
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
}

export interface RankResult {
  /** What the plan leaves: outputs (this rank's tokens) and `final_*` on the rank that has them. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly bytesSent: number;
  readonly times: readonly StepTime[];
}

/**
 * Runs one rank. Steps of one stream run in order, streams side by side, each step after those it
 * names. A failure tells every peer before it is thrown.
 */
export async function runRank(run: RankRun): Promise<RankResult> {
  const { plan, transport } = run;
  try {
    return await new RankRunner(run).run();
  } catch (error) {
    transport.abort((error as Error).message);
    throw new Error(`rank ${plan.rank}: ${(error as Error).message}`, { cause: error });
  }
}

class RankRunner {
  private readonly buffers = new Map<string, DeviceBuffer>();
  private readonly times: StepTime[] = [];
  private readonly started = performance.now();
  private readonly context: RankRun;

  constructor(context: RankRun) {
    this.context = context;
  }

  async run(): Promise<RankResult> {
    const { plan, device, inputs, transport } = this.context;
    for (const [name, tensor] of inputs) {
      const buffer = await device.alloc(tensor.dtype, tensor.shape, false);
      await device.upload(buffer, tensor);
      this.buffers.set(name, buffer);
    }
    const sentBefore = transport.bytesSent;
    const done: Promise<void>[] = [];
    const tails = { compute: Promise.resolve(), transfer: Promise.resolve() };
    for (const step of plan.steps) {
      const before = [tails[step.stream], ...step.after.map((id) => done[id]!)];
      const finished = Promise.all(before).then(() => this.step(step));
      // Every promise is awaited below; a failed one must not count as unhandled until then.
      finished.catch(() => {});
      done[step.id] = finished;
      tails[step.stream] = finished;
    }
    await Promise.all(done);
    await device.wait();
    const tensors = new Map<string, HostTensor>();
    for (const [name, buffer] of this.buffers) {
      if (!inputs.has(name)) tensors.set(name, await device.download(buffer));
      device.free(buffer);
    }
    return { tensors, bytesSent: transport.bytesSent - sentBefore, times: this.times };
  }

  private buffer(name: string): DeviceBuffer {
    const buffer = this.buffers.get(name);
    if (!buffer) throw new Error(`the plan uses ${name} before it exists`);
    return buffer;
  }

  private async step(step: Step): Promise<void> {
    const startMs = performance.now() - this.started;
    await this.execute(step);
    const endMs = performance.now() - this.started;
    this.times.push({ rank: this.context.plan.rank, step: step.id, startMs, endMs });
  }

  private async execute(step: Step): Promise<void> {
    const { device, manifest, sizes, transport } = this.context;
    switch (step.kind) {
      case "alloc":
        this.buffers.set(
          step.buffer,
          await device.alloc(step.spec.dtype, shapeOf(step.spec, sizes), step.zero),
        );
        return;
      case "free":
        device.free(this.buffer(step.buffer));
        this.buffers.delete(step.buffer);
        return;
      case "launch": {
        const form = manifest.forms.find(({ name }) => name === step.form);
        if (!form) throw new Error(`the artifact has no form ${step.form}`);
        const args = new Map(
          [...form.inputs, ...form.outputs].map(({ name }) => [
            name,
            this.buffer(step.args[name] ?? name),
          ]),
        );
        return device.launch(form, args, sizes);
      }
      case "send": {
        const { data } = await device.download(this.buffer(step.buffer));
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        return transport.send(step.to, step.tag, bytes);
      }
      case "recv": {
        const buffer = this.buffer(step.buffer);
        const bytes = await transport.recv(step.from, step.tag, buffer.sizeBytes);
        const { dtype, shape } = buffer.spec;
        const data = newData(dtype, elementsOf(shape));
        new Uint8Array(data.buffer).set(bytes);
        return device.upload(buffer, { dtype, shape, data });
      }
    }
  }
}

// --- all ranks of one process ---------------------------------------------------------------------

export interface RanksRun {
  readonly plan: Plan;
  readonly manifest: Manifest;
  /** One for each rank, loaded; a device may serve several ranks. */
  readonly devices: readonly Device[];
  readonly transports: readonly Transport[];
  /** Whole tensors: [B, T, heads, ...]. States not given start at zero. */
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
}

export interface RanksResult {
  /** Whole outputs and final states. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly bytesSent: readonly number[];
  readonly times: readonly StepTime[];
}

/** Cuts the sequence, runs every rank, and puts the outputs together. */
export async function runRanks(run: RanksRun): Promise<RanksResult> {
  const { plan, manifest, sizes } = run;
  const ranks = plan.ranks.length;
  const results = await settleAll(
    plan.ranks.map((rankPlan, rank) =>
      runRank({
        plan: rankPlan,
        manifest,
        device: run.devices[rank]!,
        transport: run.transports[rank]!,
        inputs: rankInputs(run, rank),
        sizes: rankSizes(sizes, rank, ranks),
      }),
    ),
  );
  return joinResults(manifest, sizes, results);
}

/** Waits for all, then throws the error that came first in cause: a peer's abort is only an echo. */
async function settleAll<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const settled = await Promise.allSettled(promises);
  const errors = settled.flatMap((result) =>
    result.status === "rejected" ? [result.reason as Error] : [],
  );
  if (errors.length > 0) {
    throw errors.find((error) => !/rank \d+ failed:/.test(error.message)) ?? errors[0]!;
  }
  return settled.map((result) => (result as PromiseFulfilledResult<T>).value);
}

/** Rank r's tokens: from floor(r T / ranks) to floor((r + 1) T / ranks). */
export function rankTokens(T: number, rank: number, ranks: number): { from: number; to: number } {
  const cut = (r: number) => Number((BigInt(r) * BigInt(T)) / BigInt(ranks));
  return { from: cut(rank), to: cut(rank + 1) };
}

export function rankSizes(sizes: LaunchSizes, rank: number, ranks: number): LaunchSizes {
  const { from, to } = rankTokens(sizes.T, rank, ranks);
  return { ...sizes, T: to - from, token_offset: from };
}

/** The whole inputs, cut for one rank. `initial_*` goes to the rank the chain starts at. */
export function rankInputs(run: RanksRun, rank: number): Map<string, HostTensor> {
  const { manifest, inputs, sizes, plan } = run;
  const { from, to } = rankTokens(sizes.T, rank, plan.ranks.length);
  const cut = new Map<string, HostTensor>();
  for (const spec of manifest.inputs) {
    const tensor = inputs.get(spec.name);
    if (!tensor) throw new Error(`input ${spec.name} is missing`);
    cut.set(spec.name, spec.per === "token" ? cutTokens(tensor, from, to) : tensor);
  }
  for (const state of manifest.states) {
    const first = state.reverse ? plan.ranks.length - 1 : 0;
    if (rank !== first) continue;
    const name = `initial_${state.name}`;
    const shape = [sizes.B, sizes.H, ...state.dims];
    const zero = { dtype: "f32" as const, shape, data: newData("f32", elementsOf(shape)) };
    cut.set(name, inputs.get(name) ?? zero);
  }
  const passed = new Set(
    manifest.states
      .filter(({ reverse }) => rank !== (reverse ? 0 : plan.ranks.length - 1))
      .map(({ name }) => `d_final_${name}`),
  );
  for (const spec of cotangentsOf(manifest)) {
    // The last state's cotangent belongs to the rank where the chain ends; others get theirs from there.
    const tensor = passed.has(spec.name) ? undefined : inputs.get(spec.name);
    if (tensor) cut.set(spec.name, spec.per === "token" ? cutTokens(tensor, from, to) : tensor);
  }
  return cut;
}

/** Tokens [from, to) of a [B, T, ...] tensor. */
export function cutTokens(tensor: HostTensor, from: number, to: number): HostTensor {
  const [batch, tokens, ...rest] = tensor.shape as [number, number, ...number[]];
  if (from === 0 && to === tokens) return tensor;
  const width = elementsOf(rest);
  const data = newData(tensor.dtype, batch * (to - from) * width);
  for (let b = 0; b < batch; b++) {
    const start = (b * tokens + from) * width;
    data.set(tensor.data.subarray(start, start + (to - from) * width), b * (to - from) * width);
  }
  return { dtype: tensor.dtype, shape: [batch, to - from, ...rest], data };
}

/** Whole tensors from what every rank left. */
export function joinResults(
  manifest: Manifest,
  sizes: LaunchSizes,
  results: readonly RankResult[],
): RanksResult {
  const tensors = new Map<string, HostTensor>();
  for (const spec of manifest.outputs) {
    const parts = results.map((result) => result.tensors.get(spec.name)!);
    tensors.set(spec.name, joinTokens(spec, sizes, parts));
  }
  const gradients = manifest.forms.find(({ name }) => name === "backward")?.outputs ?? [];
  for (const spec of gradients) {
    const parts = results.flatMap((result) => result.tensors.get(spec.name) ?? []);
    // A plan without gradients leaves none; the first state's is where the chain begins, alone.
    if (parts.length === 0) continue;
    if (spec.per === "token") tensors.set(spec.name, joinTokens(spec, sizes, parts));
    else tensors.set(spec.name, sumOfParts(parts));
  }
  for (const { name } of manifest.states) {
    const holder = results.find((result) => result.tensors.has(`final_${name}`));
    if (holder) tensors.set(`final_${name}`, holder.tensors.get(`final_${name}`)!);
  }
  return {
    tensors,
    bytesSent: results.map((result) => result.bytesSent),
    times: results.flatMap((result) => result.times),
  };
}

/** The sum of tensors of one shape, in their order and in float64. */
function sumOfParts(parts: readonly HostTensor[]): HostTensor {
  const [first] = parts as [HostTensor];
  if (parts.length === 1) return first;
  const sum = new Float64Array(first.data.length);
  for (const { dtype, data } of parts) toNumbers(dtype, data).forEach((x, i) => (sum[i]! += x));
  return { ...first, data: fromNumbers(first.dtype, sum) };
}

/** One [B, T, ...] tensor from its parts along T. */
export function joinTokens(
  spec: TensorSpec,
  sizes: LaunchSizes,
  parts: readonly HostTensor[],
): HostTensor {
  if (parts.length === 1) return parts[0]!;
  const shape = shapeOf(spec, sizes);
  const [batch, tokens, ...rest] = shape as [number, number, ...number[]];
  const width = elementsOf(rest);
  const data = newData(spec.dtype, elementsOf(shape));
  let first = 0;
  for (const part of parts) {
    const count = part.shape[1]!;
    for (let b = 0; b < batch; b++) {
      const from = b * count * width;
      data.set(part.data.subarray(from, from + count * width), (b * tokens + first) * width);
    }
    first += count;
  }
  return { dtype: spec.dtype, shape, data };
}
