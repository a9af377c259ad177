/** Walks a plan: one rank on one device, or all ranks of a process together. */
import { rangeOf, readBlock, rowsOf, writeBlock } from "./blocks.ts";
import type {
  Device,
  DeviceBuffer,
  DeviceQueue,
  HostTensor,
  LaunchSizes,
  Mark,
  QueuedDevice,
} from "./device.ts";
import { isQueued, shapeOf } from "./device.ts";
import { firstCause } from "./mailbox.ts";
import { type Sizes, layoutProblem, partOf, sizesIn } from "./layout.ts";
import { joinTensors, rankInputs, rankSizes } from "./mesh.ts";
import { meet, ownTags } from "./collectives.ts";
import { type Moves, movesOf } from "./moves.ts";
import type {
  AllocStep,
  FreeStep,
  LaunchStep,
  Layout,
  Manifest,
  Part,
  Plan,
  RankPlan,
  ReshardStep,
  Step,
} from "./plan.ts";
import { reshard } from "./reshard.ts";
import { type Moving, type Transport, movesBuffers } from "./transport.ts";
import { ownOf } from "./records.ts";

/** When a step ran, in milliseconds since the ranks met. */
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
  /** How often the plan is walked before the walk whose results and times count; 0 where nobody says. */
  readonly warmup?: number;
  /** Told of every step that begins: `7 (recv initial_S from 1)`. */
  readonly onStep?: (step: string) => void;
}

export interface RankResult {
  /** What the plan leaves: outputs (this rank's tokens) and `final_*` on the rank that has them. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly bytesSent: number;
  readonly messagesSent: number;
  /** Since the epoch, in milliseconds, when the times begin. */
  readonly startedMs: number;
  readonly times: readonly StepTime[];
}

/**
 * Runs one rank. Steps of one stream run in order, streams side by side, each step after those it
 * names. A failure tells every peer before it is thrown.
 */
export async function runRank(run: RankRun): Promise<RankResult> {
  const { plan, transport } = run;
  try {
    for (let i = 0; i < (run.warmup ?? 0); i++) await new RankRunner(run).run();
    return await new RankRunner(run).run();
  } catch (error) {
    transport.abort((error as Error).message);
    throw new Error(`rank ${plan.rank}: ${(error as Error).message}`, { cause: error });
  }
}

class RankRunner {
  private readonly buffers = new Map<string, DeviceBuffer>();
  private readonly times: StepTime[] = [];
  /** When all ranks were here, with their inputs. */
  private started = 0;
  private readonly context: RankRun;
  private readonly moves: Moves;
  /** What is queued and not known to be done yet. */
  private readonly moving: Promise<void>[] = [];
  /** Ends of steps that the device's other queue waits for, by step. */
  private readonly marks = new Map<number, Mark>();
  private readonly marked: ReadonlySet<number>;
  /** Where each stream's steps are queued; null: the device has one order only. */
  private readonly queues: QueuedDevice["queues"] | null;

  constructor(context: RankRun) {
    const { device, transport, plan } = context;
    this.context = context;
    this.moves = movesOf(device, transport, (name) => this.buffer(name));
    const { steps } = plan;
    const crossing = steps.flatMap(({ after, stream }) =>
      after.filter((id) => steps[id]!.stream !== stream),
    );
    const isDirect = isQueued(device) && movesBuffers(transport);
    this.marked = new Set(isDirect ? crossing : []);
    // What the host moves is in the order of the device's own queue.
    const same = (queue: DeviceQueue) => ({ compute: queue, transfer: queue });
    this.queues = isDirect ? device.queues : isQueued(device) ? same(device.queues.compute) : null;
  }

  async run(): Promise<RankResult> {
    const { plan, device, inputs, transport } = this.context;
    for (const [name, tensor] of inputs) {
      const buffer = await device.alloc(tensor.dtype, tensor.shape, false);
      await device.upload(buffer, tensor);
      this.buffers.set(name, buffer);
    }
    await meet(transport, ownTags.meeting).catch((error: unknown) => {
      throw new Error(`${(error as Error).message}, before the first step`, { cause: error });
    });
    this.started = performance.now();
    const { bytesSent, messagesSent } = transport;
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
    await Promise.all(this.moving);
    await device.wait();
    for (const mark of this.marks.values()) mark.release();
    const tensors = new Map<string, HostTensor>();
    for (const [name, buffer] of this.buffers) {
      if (!inputs.has(name)) tensors.set(name, await device.download(buffer));
      device.free(buffer);
    }
    return {
      tensors,
      bytesSent: transport.bytesSent - bytesSent,
      messagesSent: transport.messagesSent - messagesSent,
      startedMs: performance.timeOrigin + this.started,
      times: this.times,
    };
  }

  private get whole(): Sizes {
    return { ...this.context.sizes, T: this.context.sizes.T_total };
  }

  private sizesOf(layout: Layout | undefined): LaunchSizes {
    const { sizes, plan, transport } = this.context;
    if (layout === undefined || layout === "tokens") return sizes;
    const { T, H, heads } = sizesIn(layout, this.whole, plan.rank, transport.ranks);
    const isPart = typeof layout === "number";
    const token_offset = isPart ? partOf(sizes.T_total, layout, transport.ranks).from : 0;
    return { ...sizes, T, H, heads: heads ?? {}, token_offset };
  }

  private buffer(name: string): DeviceBuffer {
    const buffer = this.buffers.get(name);
    if (!buffer) throw new Error(`the plan uses ${name} before it exists`);
    return buffer;
  }

  private async step(step: Step): Promise<void> {
    const startMs = performance.now() - this.started;
    const name = `${step.id} (${describeStep(step)})`;
    this.context.onStep?.(name);
    const named = (error: unknown): never => {
      const text = `${(error as Error).message}, in step ${name}`;
      throw new Error(text, { cause: error });
    };
    this.awaitOthers(step);
    const moving = await this.execute(step).catch(named);
    this.markEnd(step);
    const ended = () => {
      const endMs = performance.now() - this.started;
      this.times.push({ rank: this.context.plan.rank, step: step.id, startMs, endMs });
    };
    if (moving === null) return ended();
    const done = moving.done.then(ended, named);
    // Awaited with all others once everything is queued.
    done.catch(() => {});
    this.moving.push(done);
  }

  /** On a device with two queues, one that is ahead waits for what the step needs of the other. */
  private awaitOthers({ after, stream }: Step): void {
    const { steps } = this.context.plan;
    for (const id of after) {
      const mark = steps[id]!.stream === stream ? undefined : this.marks.get(id);
      if (mark) this.queues![stream].waitFor(mark);
    }
  }

  private markEnd({ id, stream }: Step): void {
    if (this.marked.has(id)) this.marks.set(id, this.queues![stream].mark());
  }

  /** Resolves when the stream's next step may begin; with what is still on its way, if anything. */
  private async execute(step: Step): Promise<Moving | null> {
    const { moves } = this;
    switch (step.kind) {
      case "alloc":
        this.buffers.set(step.buffer, await this.alloc(step));
        return null;
      case "free":
        this.free(step);
        return null;
      case "launch":
        if (step.part) await this.launchPart(step, step.part);
        else await this.launch(step, this.buffers, this.sizesOf(step.layout));
        return null;
      case "send":
        return moves.send(step);
      case "recv":
        return moves.recv(step);
      case "allgather":
        return moves.allgather(step);
      case "allreduce":
        return moves.allreduce(step);
      case "reshard":
        await this.reshard(step);
        return null;
    }
  }

  private async alloc({ spec, layout, zero, stream }: AllocStep): Promise<DeviceBuffer> {
    const { device } = this.context;
    const shape = shapeOf(spec, this.sizesOf(layout));
    if (this.queues) return this.queues[stream].alloc(spec.dtype, shape, zero);
    return device.alloc(spec.dtype, shape, zero);
  }

  private free({ buffer: name, stream }: FreeStep): void {
    (this.queues?.[stream] ?? this.context.device).free(this.buffer(name));
    this.buffers.delete(name);
  }

  /** Through the host on every device: parts of tensors that do not lie side by side. */
  private async reshard(step: ReshardStep): Promise<void> {
    const { device, transport } = this.context;
    if (this.queues) {
      const mark = this.queues.transfer.mark();
      this.queues.compute.waitFor(mark);
      mark.release();
    }
    const tensor = step.buffer === null ? null : await device.download(this.buffer(step.buffer));
    const result = await reshard({ step, whole: this.whole, transport, tensor });
    if (step.into !== null && result !== null) await device.upload(this.buffer(step.into), result);
  }

  private async launch(
    { form: name, args }: LaunchStep,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const form = this.context.manifest.forms.find((one) => one.name === name);
    if (!form) throw new Error(`the artifact has no form ${name}`);
    const bound = [...form.inputs, ...form.outputs].map((spec) => {
      const buffer = buffers.get(ownOf(args, spec.name) ?? spec.name);
      if (!buffer)
        throw new Error(`the plan uses ${ownOf(args, spec.name) ?? spec.name} before it exists`);
      return [spec.name, buffer] as const;
    });
    return this.context.device.launch(form, new Map(bound), sizes);
  }

  /** On a block of rows: copies of them, as if they were the heads of one sequence. */
  private async launchPart(step: LaunchStep, part: Part): Promise<void> {
    const { device, manifest, sizes } = this.context;
    const form = manifest.forms.find(({ name }) => name === step.form);
    const blocks = new Map<string, DeviceBuffer>();
    const names = [...new Set(Object.values(step.args))];
    let rows = 0;
    for (const name of names) {
      const { spec } = this.buffer(name);
      const { from, to, shape } = rowsOf(spec.shape, part);
      rows = to - from;
      blocks.set(name, await device.alloc(spec.dtype, shape, false));
    }
    for (const { name } of form?.inputs ?? []) {
      const buffer = ownOf(step.args, name) ?? name;
      await this.copyRows(this.buffer(buffer), part, blocks.get(buffer)!, undefined);
    }
    const { cuSeqlens: _, ...plain } = sizes;
    await this.launch(step, blocks, { ...plain, B: 1, H: rows });
    for (const { name } of form?.outputs ?? []) {
      const buffer = ownOf(step.args, name) ?? name;
      await this.copyRows(blocks.get(buffer)!, undefined, this.buffer(buffer), part);
    }
    for (const block of blocks.values()) device.free(block);
  }

  /** Copies a buffer, or a block of its rows, to another; on the device where that can. */
  private async copyRows(
    from: DeviceBuffer,
    fromPart: Part | undefined,
    to: DeviceBuffer,
    toPart: Part | undefined,
  ): Promise<void> {
    const { device } = this.context;
    if (this.queues) {
      this.queues.compute.copy(rangeOf(from, fromPart), rangeOf(to, toPart));
    } else await writeBlock(device, to, await readBlock(device, from, fromPart), toPart);
  }
}

/** A step in a few words, for messages: `recv initial_S from 1`. */
export function describeStep(step: Step): string {
  switch (step.kind) {
    case "launch":
      return `launch ${step.form}`;
    case "send":
      return `send ${step.buffer} to ${step.to}`;
    case "recv":
      return `recv ${step.buffer} from ${step.from}`;
    case "reshard":
      return `reshard ${step.spec.name} to ${step.to}`;
    default:
      return `${step.kind} ${step.buffer}`;
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
  /** As of `RankRun`. */
  readonly warmup?: number;
}

export interface RanksResult {
  /** Whole outputs and final states. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  readonly bytesSent: readonly number[];
  readonly messagesSent: readonly number[];
  /** Of all ranks, since the first of them started. */
  readonly times: readonly StepTime[];
}

/** Cuts the sequence, runs every rank, and puts the outputs together. */
export async function runRanks(run: RanksRun): Promise<RanksResult> {
  const { plan, manifest, sizes, warmup = 0 } = run;
  checkSizes(run);
  const results = await settleAll(
    plan.ranks.map((rankPlan, rank) =>
      runRank({
        plan: rankPlan,
        manifest,
        device: run.devices[rank]!,
        transport: run.transports[rank]!,
        inputs: rankInputs({ ...run, mesh: plan.mesh }, rank),
        sizes: rankSizes(sizes, plan.mesh, rank),
        warmup,
      }),
    ),
  );
  return joinResults(run, results);
}

/** Waits for all, then throws the error that came first in cause: a peer's abort is only an echo. */
async function settleAll<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const settled = await Promise.allSettled(promises);
  const errors = settled.flatMap((result) =>
    result.status === "rejected" ? [result.reason as Error] : [],
  );
  if (errors.length > 0) {
    const cause = firstCause(errors.map((error) => error.message));
    throw errors.find((error) => error.message === cause)!;
  }
  return settled.map((result) => (result as PromiseFulfilledResult<T>).value);
}

/** Throws on what ranks cannot do with these sizes. */
export function checkSizes({
  manifest,
  plan,
  sizes,
}: Pick<RanksRun, "manifest" | "plan" | "sizes">) {
  if (sizes.cuSeqlens && manifest.positional && plan.mesh.seq > 1) {
    throw new Error(
      `${manifest.name} counts tokens: packed sequences of it are not cut over devices`,
    );
  }
  const moves = plan.ranks.some(({ steps }) => steps.some(({ kind }) => kind === "reshard"));
  const turns = plan.schedule === "ring-attention";
  if (sizes.cuSeqlens && (moves || turns)) {
    throw new Error(`${plan.schedule} takes sequences of one length, not packed ones`);
  }
  for (const rank of plan.ranks) {
    const problem = layoutProblem(rank, manifest, sizes, plan.ranks.length);
    if (problem !== null) throw new Error(problem);
  }
}

/** Whole tensors from what every rank left. */
export function joinResults(
  { manifest, plan, sizes }: Pick<RanksRun, "manifest" | "plan" | "sizes">,
  results: readonly RankResult[],
): RanksResult {
  const tensors = results.map((result) => result.tensors);
  const startedMs = Math.min(...results.map((result) => result.startedMs));
  const shifted = (time: StepTime, ms: number) => ({
    ...time,
    startMs: time.startMs + ms,
    endMs: time.endMs + ms,
  });
  return {
    tensors: joinTensors(manifest, plan.mesh, sizes, tensors),
    bytesSent: results.map((result) => result.bytesSent),
    messagesSent: results.map((result) => result.messagesSent),
    times: results.flatMap((result) =>
      result.times.map((time) => shifted(time, result.startedMs - startedMs)),
    ),
  };
}
