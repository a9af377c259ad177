/**
 * Runs a plan without running it: a discrete-event simulation of its own steps, streams and dependencies.
 *
 * A rank has two streams, which run their steps in order, and one port each way, which takes one message
 * after the other. A message of n bytes leaves for n / bandwidth, and is there a latency after its last byte
 * left or, if others arrive, when the port is free. A collective is a message to every other rank of its group, and one
 * from each. Allocating takes no time.
 */
import TinyQueue from "tinyqueue";
import { chainEnds, cotangentsOf, streams } from "../../runtime/plan.ts";
import type {
  AllocStep,
  FreeStep,
  LaunchStep,
  Layout,
  Manifest,
  Plan,
  Step,
  TensorSpec,
} from "../../runtime/plan.ts";
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
import { type Message, messagesOf } from "../../runtime/messages.ts";

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

/**
 * A plan's steps as one list, a rank after the other, and what waits for what. Lengths and machines change none
 * of it, so that a plan is looked through once, however many of them it is simulated for.
 */
interface Graph {
  readonly steps: readonly Step[];
  readonly rankOf: Int32Array;
  /** By rank, its first step; at the end the number of steps. */
  readonly first: readonly number[];
  /** How many steps of its rank a step waits for: those it names, and the one before it in its stream. */
  readonly before: Int32Array;
  /** Who waits for step i: `waiters` from `waitersFrom[i]` up to `waitersFrom[i + 1]`. */
  readonly waiters: Int32Array;
  readonly waitersFrom: Int32Array;
  /** By step that has a buffer, the step that allocates it; none: the rank was given it. */
  readonly allocation: Int32Array;
  /** By step, numbers of messages. */
  readonly sent: readonly (readonly number[])[];
  readonly taken: readonly (readonly number[])[];
}

const graphs = new WeakMap<Plan, Graph>();

function graphOf(plan: Plan): Graph {
  const known = graphs.get(plan) ?? makeGraph(plan);
  graphs.set(plan, known);
  return known;
}

function makeGraph(plan: Plan): Graph {
  const steps = plan.ranks.flatMap((rank) => rank.steps);
  const first = [0];
  for (const rank of plan.ranks) first.push(first.at(-1)! + rank.steps.length);
  const rankOf = new Int32Array(steps.length);
  const after: number[][] = [];
  const allocation = new Int32Array(steps.length).fill(none);
  for (const { rank, steps: own } of plan.ranks) {
    const last = new Map<Step["stream"], number>();
    const allocated = new Map<string, number>();
    for (const step of own) {
      const { id, stream, after: named } = step;
      const number = first[rank]! + id;
      if (step.kind === "alloc") allocated.set(step.buffer, number);
      if ("buffer" in step) allocation[number] = allocated.get(step.buffer ?? "") ?? none;
      const before = last.get(stream);
      last.set(stream, id);
      const all = before === undefined ? named : [before, ...named];
      after.push(all.map((other) => first[rank]! + other));
      rankOf[number] = rank;
    }
  }
  const waitersFrom = new Int32Array(steps.length + 1);
  for (const of of after) for (const other of of) waitersFrom[other + 1]!++;
  for (let i = 0; i < steps.length; i++) waitersFrom[i + 1]! += waitersFrom[i]!;
  const waiters = new Int32Array(waitersFrom.at(-1)!);
  const filled = waitersFrom.slice();
  after.forEach((of, i) => of.forEach((other) => (waiters[filled[other]!++] = i)));
  const before = Int32Array.from(after, (of) => of.length);
  const { sent, taken } = messagesOf(plan);
  return {
    steps,
    rankOf,
    first,
    before,
    allocation,
    waiters,
    waitersFrom,
    sent: sent.flat(),
    taken: taken.flat(),
  };
}

/** A step that can start, or a message that leaves, at a time. */
interface Event {
  readonly at: number;
  /** Of what happens at one time: messages first, then ranks in their order. */
  readonly order: number;
  readonly happen: () => void;
}

/** No step. */
const none = -1;

class Simulator {
  private readonly plan: Plan;
  private readonly manifest: Manifest;
  private readonly machine: Machine;
  private readonly graph: Graph;
  private readonly messages: readonly Message[];
  private readonly events = new TinyQueue<Event>([], (a, b) => a.at - b.at || a.order - b.order);

  // By step: what it still waits for,
  private readonly stepsLeft: Int32Array;
  private readonly messagesLeft: Int32Array;
  // the last step of its rank to end that it waited for, the last message to come, and when it came,
  private readonly readyAfter: Int32Array;
  private readonly lastMessage: Int32Array;
  private readonly arrival: Float64Array;
  // when the last of its own messages had left, and when it ended; NaN before.
  private readonly posted: Float64Array;
  private readonly ended: Float64Array;
  /** When a message had left. */
  private readonly left: Float64Array;

  private readonly portFree: number[];
  private readonly bytesSent: number[];
  private readonly bytesReceived: number[];
  private readonly whole: Sizes;
  /** By rank, of its own tokens. */
  private readonly own: readonly Sizes[];
  /** By rank and buffer, of what the caller gives it. */
  private readonly givenBytes: readonly ReadonlyMap<string, number>[];
  /** By step, of what it allocates. */
  private readonly allocatedBytes: Float64Array;
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
    this.own = plan.ranks.map(({ rank }) => ({
      ...sizes,
      B: lengthOf(partOf(sizes.B, Math.floor(rank / seq), data)),
      T: lengthOf(partOf(sizes.T, rank % seq, seq)),
    }));
    const zeros = () => plan.ranks.map(() => 0);
    [this.portFree, this.bytesSent, this.bytesReceived] = [zeros(), zeros(), zeros()];
    this.givenBytes = plan.ranks.map(({ rank }) => {
      const specs = givenTo(manifest, plan, rank);
      return new Map(specs.map((spec) => [spec.name, tensorBytes(spec, this.own[rank]!)]));
    });
    this.graph = graphOf(plan);
    this.messages = messagesOf(plan).all;
    this.allocatedBytes = Float64Array.from(this.graph.steps, (step, i) =>
      step.kind === "alloc"
        ? tensorBytes(step.spec, this.sizesFor(step.layout, this.graph.rankOf[i]!))
        : 0,
    );
    const { before, taken } = this.graph;
    const count = before.length;
    this.stepsLeft = before.slice();
    this.messagesLeft = Int32Array.from(taken, (all) => all.filter((id) => this.moves(id)).length);
    this.readyAfter = new Int32Array(count).fill(none);
    this.arrival = new Float64Array(count);
    this.lastMessage = new Int32Array(count).fill(none);
    this.posted = new Float64Array(count).fill(NaN);
    this.ended = new Float64Array(count).fill(NaN);
    this.left = new Float64Array(this.messages.length);
  }

  run(): Simulation {
    this.graph.before.forEach((count, step) => {
      if (count === 0) this.ready(step);
    });
    // The earliest first: ports then serve messages in the order they come.
    for (let event = this.events.pop(); event; event = this.events.pop()) event.happen();
    const last = this.ended.reduce((best, end, i) => (end > this.ended[best]! ? i : best), 0);
    const spans = () => this.graph.steps.map((_, step) => this.spanOf(step));
    return {
      seconds: this.ended[last]!,
      bytesSent: this.bytesSent,
      bytesReceived: this.bytesReceived,
      peakBytes: this.plan.ranks.map(({ rank }) => this.peakOf(rank)),
      get times() {
        return spans();
      },
      critical: this.pathTo(last),
    };
  }

  /** Whether there is such a message: a move may have nothing for a rank. */
  private moves(message: number): boolean {
    const { from, to, sender } = this.messages[message]!;
    if (sender?.kind !== "reshard") return true;
    return movedBox(sender.spec, sender, this.whole, from, to, this.plan.ranks.length) !== null;
  }

  /** When the last of the steps that it waits for has ended. */
  private startOf(step: number): number {
    const before = this.readyAfter[step]!;
    return before === none ? 0 : this.ended[before]!;
  }

  /** All steps before this one have ended. */
  private ready(step: number): void {
    const { kind, stream } = this.graph.steps[step]!;
    const start = this.startOf(step);
    // What takes no time and concerns nobody else, half of all steps, is done at once.
    if (kind === "alloc" || kind === "free") return this.finish(step, start);
    if (this.messagesLeft[step]! > 0 && !this.isToPost(step)) return;
    const order = 1 + this.graph.rankOf[step]! * streams.length + streams.indexOf(stream);
    this.events.push({ at: start, order, happen: () => this.execute(step, start) });
  }

  private isToPost(step: number): boolean {
    return Number.isNaN(this.posted[step]!) && this.graph.sent[step]!.length > 0;
  }

  private execute(number: number, start: number): void {
    const step = this.graph.steps[number]!;
    if (step.kind === "launch") {
      return this.finish(number, start + this.launchSeconds(step, this.graph.rankOf[number]!));
    }
    if (Number.isNaN(this.posted[number]!)) this.posted[number] = this.post(number, step, start);
    if (this.messagesLeft[number]! > 0) return;
    this.finish(number, Math.max(this.posted[number]!, this.arrival[number]!));
  }

  /** Whether it ended when a message came, not when its own had left. */
  private endsWithMessage(step: number): boolean {
    return this.arrival[step]! > this.posted[step]!;
  }

  private finish(step: number, end: number): void {
    this.ended[step] = end;
    const { waiters, waitersFrom } = this.graph;
    for (let i = waitersFrom[step]!; i < waitersFrom[step + 1]!; i++) {
      const waiter = waiters[i]!;
      const last = this.readyAfter[waiter]!;
      if (last === none || end > this.ended[last]!) this.readyAfter[waiter] = step;
      if (--this.stepsLeft[waiter]! === 0) this.ready(waiter);
    }
  }

  /** Sends what a step sends, one message after the other; gives when the last has left. */
  private post(number: number, step: Step, start: number): number {
    let at = start;
    for (const id of this.graph.sent[number]!) {
      if (!this.moves(id)) continue;
      const { from, to } = this.messages[id]!;
      const link = linkBetween(this.machine.fabric, from, to);
      const bytes = this.bytesSentBy(number, step, from, to);
      const begin = at;
      this.events.push({ at: begin, order: 0, happen: () => this.carry(id, begin, bytes, link) });
      at += bytes / link.bytesPerS;
      this.left[id] = at;
      this.bytesSent[from]! += bytes;
    }
    return at;
  }

  private bytesSentBy(number: number, step: Step, from: number, to: number): number {
    if (step.kind === "reshard") {
      const box = movedBox(step.spec, step, this.whole, from, to, this.plan.ranks.length)!;
      return boxBytes(step.spec, this.whole, box);
    }
    const whole = this.bufferBytes(number);
    const part = "part" in step ? step.part : undefined;
    return part ? whole / part.of : whole;
  }

  /** Of the buffer that a step has. */
  private bufferBytes(number: number): number {
    const allocation = this.graph.allocation[number]!;
    if (allocation !== none) return this.allocatedBytes[allocation]!;
    const step = this.graph.steps[number]!;
    const buffer = "buffer" in step ? (step.buffer ?? "") : "";
    return this.givenBytes[this.graph.rankOf[number]!]!.get(buffer) ?? 0;
  }

  /** A message reaches the port of its receiver, behind those that left before it. */
  private carry(id: number, at: number, bytes: number, link: Link): void {
    const { to, receiver } = this.messages[id]!;
    const arrival = Math.max(at + link.latencyS, this.portFree[to]!) + bytes / link.bytesPerS;
    this.portFree[to] = arrival;
    this.bytesReceived[to]! += bytes;
    const step = this.graph.first[to]! + receiver!.id;
    if (arrival > this.arrival[step]!) {
      this.arrival[step] = arrival;
      this.lastMessage[step] = id;
    }
    const isLast = --this.messagesLeft[step]! === 0;
    if (isLast && this.stepsLeft[step] === 0 && !this.isToPost(step)) this.ready(step);
  }

  private senderOf(message: number): number {
    const { from, sender } = this.messages[message]!;
    return this.graph.first[from]! + sender!.id;
  }

  private sizesFor(layout: Layout | undefined, rank: number): Sizes {
    if (layout === undefined || layout === "tokens") return this.own[rank]!;
    if (typeof layout === "number") {
      const [own, there] = [this.own[rank]!, this.own[layout]!];
      return own.B === there.B ? there : { ...own, T: there.T };
    }
    return sizesIn(layout, this.whole, rank, this.plan.ranks.length);
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
    const first = this.graph.first[rank]!;
    let live = [...this.givenBytes[rank]!.values()].reduce((sum, bytes) => sum + bytes, 0);
    let peak = live;
    // Of each stream in its order, which is that of time: sorting merges the two.
    const changes = streams.flatMap((stream) =>
      this.plan.ranks[rank]!.steps.filter(isChange).filter((step) => step.stream === stream),
    );
    const endOf = ({ id }: Step) => this.ended[first + id]!;
    for (const { id, kind } of changes.sort((a, b) => endOf(a) - endOf(b) || a.id - b.id)) {
      const bytes = this.bufferBytes(first + id);
      live += kind === "alloc" ? bytes : -bytes;
      peak = Math.max(peak, live);
    }
    return peak;
  }

  private spanOf(step: number): StepSpan {
    const rank = this.graph.rankOf[step]!;
    const id = step - this.graph.first[rank]!;
    return { rank, step: id, start: this.startOf(step), end: this.ended[step]! };
  }

  /** From the first cause to `last`: each step from when the one before it on the path had ended, or its message had left. */
  private pathTo(last: number): StepSpan[] {
    const path: StepSpan[] = [];
    let [step, end, hasEnded] = [last, this.ended[last]!, true];
    while (step !== none) {
      const span = this.spanOf(step);
      const message = hasEnded && this.endsWithMessage(step) ? this.lastMessage[step]! : none;
      const since = message === none ? span.start : this.left[message]!;
      path.push({ ...span, start: Math.max(span.start, since), end });
      step = message === none ? this.readyAfter[step]! : this.senderOf(message);
      [end, hasEnded] = [since, message === none];
    }
    return path.reverse().filter(({ start, end: until }) => until > start);
  }
}

function isChange(step: Step): step is AllocStep | FreeStep {
  return step.kind === "alloc" || step.kind === "free";
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

function lengthOf({ from, to }: { readonly from: number; readonly to: number }): number {
  return to - from;
}
