/**
 * Runs a plan without running it: a discrete-event simulation of its own steps, streams and dependencies.
 *
 * A rank has two streams, which run their steps in order, and one port each way, which takes one message
 * after the other. A message of n bytes leaves for n / bandwidth, and is there a latency after its last byte
 * left or, if others arrive, when the port is free. A collective is a message to every other rank of its group, and one
 * from each. Allocating takes no time.
 */
import { chainEnds, cotangentsOf } from "../../runtime/plan.ts";
import type { LaunchStep, Layout, Manifest, Plan, Step, TensorSpec } from "../../runtime/plan.ts";
import { launchSeconds } from "./cost.ts";
import { type DeviceSpeed, type Fabric, type Link, linkBetween } from "./fabrics.ts";
import {
  type Sizes,
  boxBytes,
  layoutProblem,
  movedBox,
  partOf,
  sizesIn,
  tensorBytes,
} from "../../runtime/layout.ts";
import { Unsupported } from "../support/never.ts";
import { messagesOf } from "./verify.ts";

export interface Simulation {
  readonly seconds: number;
  /** By rank. */
  readonly bytesSent: readonly number[];
  readonly bytesReceived: readonly number[];
  /** Inputs and buffers of the plan. */
  readonly peakBytes: readonly number[];
  /** When each step ran, in seconds. */
  readonly times: readonly StepSpan[];
  /** The steps that the end waited for, from the first on. */
  readonly critical: readonly StepSpan[];
}

export interface StepSpan {
  readonly rank: number;
  readonly step: number;
  readonly start: number;
  readonly end: number;
}

export interface Machine {
  readonly fabric: Fabric;
  readonly speed: DeviceSpeed;
}

/** `sizes` are those of the whole sequence; every rank has its part of the tokens. */
export function simulate(
  plan: Plan,
  manifest: Manifest,
  sizes: Sizes,
  machine: Machine,
): Simulation {
  return new Simulator(plan, manifest, sizes, machine).run();
}

/** The steps of one stream of a rank, in order, and how many have run. */
interface Queue {
  readonly rank: number;
  readonly steps: readonly Step[];
  at: number;
  /** When the next one can start, and the step that it waits for; null while that is not known. */
  next: { readonly start: number; readonly cause: Done | null } | null;
}

/** A step that has been run, and the one it could not have started before. */
interface Done extends StepSpan {
  readonly cause: Done | null;
}

interface Message {
  readonly arrival: number;
  readonly sent: Done;
}

/** A message that leaves at a time, when its sender has no other to send. */
interface Leaving {
  readonly at: number;
  readonly key: string;
  readonly to: number;
  readonly bytes: number;
  readonly link: Link;
  readonly sent: Done;
}

const streams = ["compute", "transfer"] as const;

class Simulator {
  private readonly done: (Done | undefined)[][];
  /** Two for each rank. */
  private readonly queues: readonly Queue[];
  private readonly messages = new Map<string, Message[]>();
  private readonly exchanges = new Map<Step, ReturnType<typeof messagesOf>>();
  /** By sender, whose messages leave one after the other. */
  private readonly leaving: Leaving[][];
  /** Steps whose messages are on their way, and when the last of them has left. */
  private readonly posted = new Map<Step, number>();
  private readonly portFree: number[];
  private readonly bytesSent: number[];
  private readonly bytesReceived: number[];
  private readonly plan: Plan;
  private readonly manifest: Manifest;
  private readonly sizes: readonly Sizes[];
  private readonly whole: Sizes;
  private readonly machine: Machine;
  private readonly given: readonly (readonly TensorSpec[])[];
  private readonly bufferBytes: Map<string, number>[];
  private readonly launchTimes = new Map<string, number>();

  constructor(plan: Plan, manifest: Manifest, sizes: Sizes, machine: Machine) {
    this.plan = plan;
    this.whole = sizes;
    this.manifest = manifest;
    for (const rank of plan.ranks) {
      const problem = layoutProblem(rank, manifest, sizes, plan.ranks.length);
      if (problem !== null) throw new Unsupported(problem);
    }
    this.machine = machine;
    const { seq, data } = plan.mesh;
    this.sizes = plan.ranks.map(({ rank }) => ({
      ...sizes,
      B: lengthOf(partOf(sizes.B, Math.floor(rank / seq), data)),
      T: lengthOf(partOf(sizes.T, rank % seq, seq)),
    }));
    this.done = plan.ranks.map(() => []);
    this.leaving = plan.ranks.map(() => []);
    this.queues = plan.ranks.flatMap(({ rank, steps }) =>
      streams.map((stream) => ({
        rank,
        steps: steps.filter((step) => step.stream === stream),
        at: 0,
        next: null,
      })),
    );
    const zeros = () => plan.ranks.map(() => 0);
    [this.portFree, this.bytesSent, this.bytesReceived] = [zeros(), zeros(), zeros()];
    this.given = plan.ranks.map(({ rank }) => givenTo(manifest, plan, rank));
    this.bufferBytes = plan.ranks.map(({ rank, steps }) => {
      const own = this.given[rank]!.map(
        (spec) => [spec.name, tensorBytes(spec, this.sizesFor("tokens", rank))] as const,
      );
      const allocated = steps.flatMap((step) =>
        step.kind === "alloc"
          ? [[step.buffer, tensorBytes(step.spec, this.sizesFor(step.layout, rank))] as const]
          : [],
      );
      return new Map([...own, ...allocated]);
    });
  }

  private sizesFor(layout: Layout | undefined, rank: number): Sizes {
    const isOwn = layout === undefined || layout === "tokens";
    return isOwn ? this.sizes[rank]! : sizesIn(layout, this.whole, rank, this.plan.ranks.length);
  }

  /** The messages of a step, without those of a move that would be empty. */
  private exchanged(step: Step, rank: number) {
    const known = this.exchanges.get(step);
    if (known) return known;
    const made = this.exchangeOf(step, rank);
    this.exchanges.set(step, made);
    return made;
  }

  private exchangeOf(step: Step, rank: number): ReturnType<typeof messagesOf> {
    const ranks = this.plan.ranks.length;
    const all = messagesOf(step, rank, ranks);
    if (step.kind !== "reshard") return all;
    const moves = (from: number, to: number) =>
      movedBox(step.spec, step, this.whole, from, to, ranks) !== null;
    const kept = all.peers.map((peer) => moves(rank, peer));
    return {
      sends: all.sends.filter((_, i) => kept[i]),
      waits: all.waits.filter((_, i) => moves(all.peers[i]!, rank)),
      peers: all.peers.filter((_, i) => kept[i]),
    };
  }

  run(): Simulation {
    for (const { rank } of this.plan.ranks) this.look(rank);
    for (;;) {
      // Of what can start, the earliest: ports then serve messages in the order they come.
      let first: Queue | null = null;
      for (const queue of this.queues) {
        if (queue.next && (!first || queue.next.start < first.next!.start)) first = queue;
      }
      const message = this.earliest();
      if (message && (!first || message.at <= first.next!.start)) {
        this.carry(message);
        this.look(message.to);
        continue;
      }
      if (first === null) break;
      const { rank, steps } = first;
      const step = steps[first.at]!;
      if (this.execute(rank, step, first.next!.start, first.next!.cause)) first.at++;
      this.look(rank);
      for (const peer of this.exchanged(step, rank).peers) this.look(peer);
    }
    const times = this.done.flat().map((span) => span!);
    const last = times.reduce((a, b) => (b.end > a.end ? b : a));
    return {
      seconds: last.end,
      bytesSent: this.bytesSent,
      bytesReceived: this.bytesReceived,
      peakBytes: this.plan.ranks.map(({ rank }) => this.peakOf(rank)),
      times: times.map(spanOf),
      critical: pathTo(last),
    };
  }

  /** Looks at what a rank can do now. What takes no time and concerns nobody else, half of all steps, is done at once. */
  private look(rank: number): void {
    for (let isMoving = true; isMoving;) {
      isMoving = false;
      for (let i = 0; i < streams.length; i++) {
        const queue = this.queues[rank * streams.length + i]!;
        for (queue.next = this.next(queue); queue.next; queue.next = this.next(queue)) {
          const step = queue.steps[queue.at]!;
          if (step.kind !== "alloc" && step.kind !== "free") break;
          this.execute(rank, step, queue.next.start, queue.next.cause);
          queue.at++;
          isMoving = true;
        }
      }
    }
  }

  private next({ rank, steps, at }: Queue): Queue["next"] {
    const step = steps[at];
    if (step === undefined) return null;
    const mine = this.done[rank]!;
    let cause: Done | null = at > 0 ? mine[steps[at - 1]!.id]! : null;
    for (const id of step.after) {
      const before = mine[id];
      if (before === undefined) return null;
      if (cause === null || before.end > cause.end) cause = before;
    }
    const { sends, waits } = this.exchanged(step, rank);
    const isReady = waits.every((key) => this.messages.get(key)?.length);
    if (!isReady && (sends.length === 0 || this.posted.has(step))) return null;
    return { start: cause?.end ?? 0, cause };
  }

  /** Sends what a step sends; gives whether it has ended. */
  private execute(rank: number, step: Step, start: number, cause: Done | null): boolean {
    const finish = (end: number, why = cause) => {
      this.done[rank]![step.id] = { rank, step: step.id, start, end, cause: why };
      return true;
    };
    switch (step.kind) {
      case "alloc":
      case "free":
        return finish(start);
      case "launch":
        return finish(start + this.launchSeconds(step, rank));
      default: {
        const { waits } = this.exchanged(step, rank);
        if (!this.posted.has(step)) this.post(rank, step, start, cause);
        if (waits.some((key) => !this.messages.get(key)?.length)) return false;
        const came = waits.map((key) => this.messages.get(key)!.shift()!);
        const last = came.reduce<Message | null>(
          (a, b) => (a && a.arrival >= b.arrival ? a : b),
          null,
        );
        const sent = Math.max(start, this.posted.get(step)!);
        if (last && last.arrival > sent) return finish(last.arrival, last.sent);
        return finish(sent);
      }
    }
  }

  private post(rank: number, step: Step, start: number, cause: Done | null): void {
    const { sends, peers } = this.exchanged(step, rank);
    const part = "part" in step ? step.part : undefined;
    const bytesTo = (to: number) => {
      if (step.kind === "reshard") {
        const box = movedBox(step.spec, step, this.whole, rank, to, this.plan.ranks.length)!;
        return boxBytes(step.spec, this.whole, box);
      }
      const whole = "buffer" in step ? this.bufferBytes[rank]!.get(step.buffer)! : 0;
      return part ? whole / part.of : whole;
    };
    let at = start;
    sends.forEach((key, i) => {
      const to = peers[i]!;
      const link = linkBetween(this.machine.fabric, rank, to);
      const bytes = bytesTo(to);
      const leaving = bytes / link.bytesPerS;
      const sent = { rank, step: step.id, start, end: at + leaving, cause };
      this.leaving[rank]!.push({ at, key, to, bytes, link, sent });
      at = sent.end;
      this.bytesSent[rank]! += bytes;
    });
    this.posted.set(step, at);
  }

  private earliest(): Leaving | null {
    let first: Leaving | null = null;
    for (const [next] of this.leaving) if (next && (!first || next.at < first.at)) first = next;
    return first;
  }

  /** A message reaches the port of its receiver, behind those that left before it. */
  private carry(message: Leaving): void {
    const { at, key, to, bytes, link, sent } = message;
    this.leaving[sent.rank]!.shift();
    const arrival = Math.max(at + link.latencyS, this.portFree[to]!) + bytes / link.bytesPerS;
    this.portFree[to] = arrival;
    this.bytesReceived[to]! += bytes;
    this.messages.set(key, [...(this.messages.get(key) ?? []), { arrival, sent }]);
  }

  private launchSeconds({ form: formName, part, layout }: LaunchStep, rank: number): number {
    const own = this.sizesFor(layout, rank);
    // A block is so many of the pairs of a sequence and a head.
    const sizes = part ? { ...own, B: (own.B * own.H) / part.of, H: 1 } : own;
    const key = `${formName} ${sizes.B} ${sizes.T} ${sizes.H}`;
    const known = this.launchTimes.get(key);
    if (known !== undefined) return known;
    const form = this.manifest.forms.find(({ name }) => name === formName)!;
    const seconds = launchSeconds(form, this.manifest, sizes, this.machine.speed);
    this.launchTimes.set(key, seconds);
    return seconds;
  }

  /** Most bytes at once: the inputs, and what is allocated and not yet free. */
  private peakOf(rank: number): number {
    const sizes = this.bufferBytes[rank]!;
    let live = this.given[rank]!.reduce((sum, { name }) => sum + sizes.get(name)!, 0);
    let peak = live;
    const order = [...this.plan.ranks[rank]!.steps].sort(
      (a, b) => this.done[rank]![a.id]!.end - this.done[rank]![b.id]!.end || a.id - b.id,
    );
    for (const step of order) {
      if (step.kind === "alloc") live += sizes.get(step.buffer)!;
      if (step.kind === "free") live -= sizes.get(step.buffer)!;
      peak = Math.max(peak, live);
    }
    return peak;
  }
}

/** What the caller gives a rank: inputs, states where their chain begins, cotangents where it ends. */
function givenTo(manifest: Manifest, plan: Plan, rank: number): TensorSpec[] {
  const { steps } = plan.ranks[rank]!;
  const isBackward = steps.some((step) => step.kind === "launch" && step.form === "backward");
  const specs = manifest.forms.flatMap(({ inputs }) => inputs);
  const states = manifest.states.flatMap((state) => {
    const { begins, ends } = chainEnds(state, plan.mesh, rank);
    return [
      ...(begins ? [`initial_${state.name}`] : []),
      ...(isBackward && ends ? [`d_final_${state.name}`] : []),
    ];
  });
  const ends = new Set(manifest.states.map(({ name }) => `d_final_${name}`));
  return [
    ...manifest.inputs,
    ...states.flatMap((state) => specs.find(({ name }) => name === state) ?? []),
    ...(isBackward ? cotangentsOf(manifest).filter(({ name }) => !ends.has(name)) : []),
  ];
}

function spanOf({ rank, step, start, end }: StepSpan): StepSpan {
  return { rank, step, start, end };
}

/** From the first cause to `last`: each step from when the one before it on the path had ended. */
function pathTo(last: Done): StepSpan[] {
  const path: StepSpan[] = [];
  for (let at: Done | null = last; at !== null; at = at.cause) {
    path.push(spanOf({ ...at, start: Math.max(at.start, at.cause?.end ?? 0) }));
  }
  return path.reverse().filter(({ start, end }) => end > start);
}

function lengthOf({ from, to }: { readonly from: number; readonly to: number }): number {
  return to - from;
}
