/** What every plan satisfies: complete, matched, without deadlock or leak. */
import { ownOf } from "./records.ts";
import { cotangentsOf } from "./plan.ts";
import { chainEnds, streams, worldSize } from "./plan.ts";
import type { Layout, Manifest, Mesh, Part, Plan, RankPlan, Step, TensorSpec } from "./plan.ts";
import { messagesOf, receiversOf, sendersTo } from "./messages.ts";
import { layoutFor } from "./layout.ts";

/** The first problem of a plan in words, or null. */
export function planProblem(plan: Plan, manifest: Manifest): string | null {
  const ranks = worldSize(plan.mesh);
  if (ranks !== plan.ranks.length) return `a mesh of ${ranks} has ${plan.ranks.length} ranks`;
  for (const [i, rank] of plan.ranks.entries()) {
    if (rank.rank !== i) return `rank ${rank.rank} stands in the place of rank ${i}`;
    const problem = new RankCheck(rank, manifest, plan.mesh).problem();
    if (problem !== null) return `rank ${rank.rank}: ${problem}`;
  }
  return moveProblem(plan) ?? messageProblem(plan, manifest) ?? deadlock(plan);
}

/** A buffer as far as the plan knows its size: B and H are the same everywhere, tokens are some rank's. */
interface Buffer {
  readonly spec: TensorSpec;
  readonly layout: Layout;
}

function sizeKey(
  { spec: { per, dtype, dims }, layout }: Buffer,
  rank: number,
  part?: Part,
): string {
  const block = part ? ` block ${part.index} of ${part.of}` : "";
  const tokens = per === "token" ? ` of ${layout === "tokens" ? rank : layout}` : "";
  return `${per} ${dtype} [${dims.join(", ")}]${tokens}${block}`;
}

/**
 * Which steps have finished when one begins: of each stream those up to an index. A stream's own steps run in order,
 * and what a step waits for has waited itself.
 */
class Order {
  private readonly clocks: Readonly<Record<Step["stream"], number>>[] = [];
  private readonly last = new Map<Step["stream"], number>();

  /** Steps come in the order of their ids. */
  add({ id, after, stream }: Step): void {
    const clock = { compute: -1, transfer: -1 };
    const previous = this.last.get(stream);
    for (const other of previous === undefined ? after : [...after, previous]) {
      for (const one of streams) clock[one] = Math.max(clock[one], this.clocks[other]![one]);
    }
    clock[stream] = id;
    this.clocks[id] = clock;
    this.last.set(stream, id);
  }

  isBefore(step: Step, later: Step): boolean {
    return this.clocks[later.id]![step.stream] >= step.id;
  }
}

/** A step's use of a buffer, or of a block of it. */
interface Use {
  readonly step: Step;
  readonly writes: boolean;
  readonly part: Part | undefined;
}

/** May the order of two uses matter? Blocks of one cut have nothing in common. */
function meet(a: Use, b: Use): boolean {
  if (!a.writes && !b.writes) return false;
  return !a.part || !b.part || a.part.of !== b.part.of || a.part.index === b.part.index;
}

/** Follows the buffers of one rank through its steps. */
class RankCheck {
  private readonly order = new Order();
  private readonly uses = new Map<string, Use[]>();
  private readonly live = new Map<string, Layout>();
  /** What has been written, whole, or which blocks of how many. */
  private readonly written = new Map<string, true | Set<string>>();
  private readonly plan: RankPlan;
  private readonly manifest: Manifest;
  private readonly mesh: Mesh;

  constructor(plan: RankPlan, manifest: Manifest, mesh: Mesh) {
    this.plan = plan;
    this.manifest = manifest;
    this.mesh = mesh;
  }

  problem(): string | null {
    const { plan, manifest, mesh } = this;
    // A plan that runs the gradients is given the cotangents and leaves a gradient for each input.
    const isBackward = plan.steps.some((one) => one.kind === "launch" && one.form === "backward");
    const gradients = manifest.forms.find(({ name }) => name === "backward")?.outputs ?? [];
    const ends = manifest.states.map((state) => ({
      name: state.name,
      ...chainEnds(state, mesh, plan.rank),
    }));
    const elsewhere = new Set(
      ends.flatMap(({ name, begins, ends: isEnd }) => [
        ...(begins ? [] : [`initial_${name}`, `d_initial_${name}`]),
        ...(isEnd ? [] : [`final_${name}`, `d_final_${name}`]),
      ]),
    );
    const here = (names: readonly string[]) => names.filter((name) => !elsewhere.has(name));
    const named = (specs: readonly TensorSpec[]) => specs.map(({ name }) => name);
    const given = here([
      ...named(manifest.inputs),
      ...manifest.states.map(({ name }) => `initial_${name}`),
      ...(isBackward ? named(cotangentsOf(manifest)) : []),
    ]);
    for (const name of given) {
      this.live.set(name, "tokens");
      this.written.set(name, true);
    }
    for (const [i, step] of plan.steps.entries()) {
      const at = `step ${i} (${step.kind})`;
      if (step.id !== i) return `${at} has id ${step.id}`;
      if (step.after.some((id) => id >= i || id < 0)) return `${at} waits for a later step`;
      this.order.add(step);
      const problem = this.stepProblem(step) ?? this.orderProblem(step);
      if (problem !== null) return `${at} ${problem}`;
    }
    // What is left: the caller's own, the outputs, and the final states where their chain ends.
    const promised = here([
      ...named(manifest.outputs),
      ...manifest.states.map(({ name }) => `final_${name}`),
      ...(isBackward ? named(gradients) : []),
    ]);
    const kept = new Set([...given, ...promised]);
    const leaked = [...this.live.keys()].find((name) => !kept.has(name));
    if (leaked !== undefined) return `${leaked} is never freed`;
    const missing = promised.find((name) => this.written.get(name) !== true);
    return missing === undefined ? null : `${missing} is never written`;
  }

  /** Steps that use one buffer, one of them to write it, wait for each other. */
  private orderProblem(step: Step): string | null {
    for (const { name, ...rest } of usesOf(step, this.manifest)) {
      const use: Use = { step, ...rest };
      const before = this.uses.get(name) ?? [];
      const racing = before.find(
        (other) =>
          other.step !== step && meet(other, use) && !this.order.isBefore(other.step, step),
      );
      if (racing) return `does not wait for step ${racing.step.id}, which uses ${name} too`;
      // What all uses so far come before stands for them.
      this.uses.set(name, use.writes && !use.part ? [use] : [...before, use]);
    }
    return null;
  }

  private stepProblem(step: Step): string | null {
    switch (step.kind) {
      case "alloc":
        if (this.live.has(step.buffer)) return `allocates ${step.buffer} twice`;
        this.live.set(step.buffer, step.layout ?? "tokens");
        if (step.zero) this.written.set(step.buffer, true);
        return null;
      case "free":
        if (!this.live.has(step.buffer)) return `frees ${step.buffer}, which is not there`;
        this.live.delete(step.buffer);
        this.written.delete(step.buffer);
        return null;
      case "send":
        return this.read(step.buffer, "sends", step.part);
      case "recv":
        return this.write(step.buffer, "receives", step.part);
      case "allgather": {
        const others = step.into.filter((name) => name !== step.buffer);
        return (
          this.read(step.buffer, "gathers") ??
          first(others.map((name) => this.write(name, "gathers")))
        );
      }
      case "allreduce":
        return this.read(step.buffer, "sums");
      case "reshard": {
        const { buffer, into, to } = step;
        const problem = buffer === null ? null : this.read(buffer, "moves");
        if (problem !== null || into === null) return problem;
        const layout = this.live.get(into);
        if (layout === undefined) return `moves into ${into}, which is not there`;
        if (layout !== (typeof to === "number" ? "tokens" : to)) return `moves ${into} to ${to}`;
        return this.write(into, "moves");
      }
      case "launch": {
        const form = this.manifest.forms.find(({ name }) => name === step.form);
        if (!form) return `launches ${step.form}, which is no form`;
        const specs = [...form.inputs, ...form.outputs];
        const unbound = specs.find(({ name }) => ownOf(step.args, name) === undefined);
        if (unbound) return `gives ${step.form} no ${unbound.name}`;
        const whole = step.part && specs.find(({ per }) => per !== "state");
        if (whole) return `takes a block of ${whole.name}, which is no state`;
        const over = step.layout ?? "tokens";
        const misplaced = specs.find(
          (spec) =>
            spec.per !== "shared" &&
            this.live.has(step.args[spec.name]!) &&
            this.live.get(step.args[spec.name]!) !== layoutFor(spec, over),
        );
        if (misplaced) {
          const layout = this.live.get(step.args[misplaced.name]!);
          return `gives ${step.form} ${misplaced.name} in layout ${layout}, not ${layoutFor(misplaced, over)}`;
        }
        return (
          first(form.inputs.map(({ name }) => this.read(step.args[name]!, "reads", step.part))) ??
          first(form.outputs.map(({ name }) => this.write(step.args[name]!, "writes", step.part)))
        );
      }
    }
  }

  private read(buffer: string, verb: string, part?: Part): string | null {
    const known = this.written.get(buffer);
    const isThere = known === true || (part && known?.has(`${part.index} of ${part.of}`));
    return isThere ? null : `${verb} ${buffer}, which nothing wrote`;
  }

  private write(buffer: string, verb: string, part?: Part): string | null {
    if (!this.live.has(buffer)) return `${verb} ${buffer}, which is not there`;
    const known = this.written.get(buffer);
    if (part === undefined || known === true) {
      this.written.set(buffer, true);
      return null;
    }
    const blocks = (known ?? new Set()).add(`${part.index} of ${part.of}`);
    this.written.set(buffer, blocks.size === part.of ? true : blocks);
    return null;
  }
}

/** Buffers that a step reads or writes; making and freeing one is writing it. */
function usesOf(step: Step, manifest: Manifest) {
  const part = "part" in step ? step.part : undefined;
  const of = (name: string | null, writes: boolean) =>
    name === null ? [] : [{ name, writes, part }];
  switch (step.kind) {
    case "alloc":
    case "free":
    case "recv":
    case "allreduce":
      return of(step.buffer, true);
    case "send":
      return of(step.buffer, false);
    case "allgather":
      return [
        ...of(step.buffer, false),
        ...step.into.flatMap((name) => of(name, name !== step.buffer)),
      ];
    case "reshard":
      return [...of(step.buffer, false), ...of(step.into, true)];
    case "launch": {
      const form = manifest.forms.find(({ name }) => name === step.form)!;
      return [
        ...form.inputs.flatMap(({ name }) => of(step.args[name]!, false)),
        ...form.outputs.flatMap(({ name }) => of(step.args[name]!, true)),
      ];
    }
  }
}

function first(problems: readonly (string | null)[]): string | null {
  return problems.find((problem) => problem !== null) ?? null;
}

/** All ranks move the same tensors, in one order. */
function moveProblem(plan: Plan): string | null {
  const [first, ...others] = plan.ranks.map(({ steps }) =>
    steps.flatMap((step) => {
      if (step.kind !== "reshard") return [];
      return `${step.spec.name} from ${step.from} to ${step.to} tag ${step.tag}`;
    }),
  );
  for (const [i, own] of others.entries()) {
    const at = own.findIndex((move, k) => move !== first![k]);
    if (at >= 0) return `rank ${i + 1} moves ${own[at]}, rank 0 ${first![at] ?? "nothing"}`;
    if (own.length < first!.length) return `rank ${i + 1} leaves out ${first![own.length]}`;
  }
  return null;
}

/** Every send meets a recv of the same size, in order, and the other way round. */
function messageProblem(plan: Plan, manifest: Manifest): string | null {
  const ranks = plan.ranks.length;
  for (const { rank, steps } of plan.ranks) {
    for (const step of steps) {
      const peers = [...receiversOf(step, rank, ranks), ...sendersTo(step, rank, ranks)];
      if ("group" in step) {
        const { group } = step;
        if (!group.includes(rank)) return `rank ${rank}: step ${step.id} is of a group without it`;
        if (new Set(group).size < group.length) {
          return `rank ${rank}: step ${step.id} has a rank twice in its group`;
        }
        if (step.kind === "allgather" && step.into.length !== group.length) {
          return `rank ${rank}: step ${step.id} gathers ${group.length} into ${step.into.length}`;
        }
      }
      const wrong = peers.find((peer) => peer === rank || peer < 0 || peer >= ranks);
      if (wrong !== undefined) return `rank ${rank}: step ${step.id} names rank ${wrong}`;
    }
  }
  const { all } = messagesOf(plan);
  const sizes = plan.ranks.map(({ rank, steps }) => messageSizes(rank, steps, manifest));
  for (const { from, to, tag, sender, receiver } of all) {
    const channel = `${from} to ${to} tag ${tag}`;
    if (receiver === null) return `${channel}: step ${sender!.id} of ${from} is never received`;
    if (sender === null) return `${channel}: step ${receiver.id} of ${to} is never sent`;
    if (sender.kind === "reshard" && receiver.kind === "reshard") continue;
    const [out, back] = [sizes[from]![sender.id], sizes[to]![receiver.id]];
    if (out !== back) return `${channel}: sent ${out}, received ${back}`;
  }
  return null;
}

/** By step, the size of what it sends or receives. */
function messageSizes(rank: number, steps: readonly Step[], manifest: Manifest): string[] {
  const { inputs, forms } = manifest;
  const states = forms.find(({ name }) => name === "forward")?.inputs ?? [];
  const given = [
    ...inputs,
    ...states.filter(({ per }) => per === "state"),
    ...cotangentsOf(manifest),
  ];
  const buffers = new Map<string, Buffer>(
    given.map((spec) => [spec.name, { spec, layout: "tokens" }]),
  );
  const sizes: string[] = [];
  for (const step of steps) {
    if (step.kind === "alloc") {
      buffers.set(step.buffer, { spec: step.spec, layout: step.layout ?? "tokens" });
    } else if ("tag" in step) {
      const buffer = step.buffer === null ? undefined : buffers.get(step.buffer);
      sizes[step.id] = buffer ? sizeKey(buffer, rank, "part" in step ? step.part : undefined) : "?";
    }
  }
  return sizes;
}

/** Runs the plan with sends that never wait; what cannot finish waits for itself. */
function deadlock(plan: Plan): string | null {
  const { all, sent, taken } = messagesOf(plan);
  const isSent = new Uint8Array(all.length);
  const isDone = plan.ranks.map(({ steps }) => new Uint8Array(steps.length));
  // A queue for each stream of each rank, whose first step is next.
  const queues = plan.ranks.flatMap(({ rank, steps }) =>
    streams.map((stream) => ({
      rank,
      steps: steps.filter((step) => step.stream === stream),
      at: 0,
      hasPosted: false,
    })),
  );
  // Takes a queue as far as it goes; gives whether it moved.
  const advance = (queue: (typeof queues)[number]): boolean => {
    const { rank, steps } = queue;
    const done = isDone[rank]!;
    const from = queue.at;
    let hasSent = false;
    for (; queue.at < steps.length; queue.at++) {
      const { id, after } = steps[queue.at]!;
      if (!after.every((other) => done[other])) break;
      if (!queue.hasPosted) {
        for (const message of sent[rank]![id]!) isSent[message] = 1;
        hasSent ||= sent[rank]![id]!.length > 0;
        queue.hasPosted = true;
      }
      if (!taken[rank]![id]!.every((message) => isSent[message])) break;
      done[id] = 1;
      queue.hasPosted = false;
    }
    return hasSent || queue.at > from;
  };
  for (let moved = true; moved;) {
    moved = false;
    for (const queue of queues) moved = advance(queue) || moved;
  }
  const stuck = plan.ranks.find(({ rank }) => isDone[rank]!.includes(0));
  if (!stuck) return null;
  const waiting = stuck.steps[isDone[stuck.rank]!.indexOf(0)]!;
  return `rank ${stuck.rank} waits forever at step ${waiting.id} (${waiting.kind})`;
}
