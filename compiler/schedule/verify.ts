/** What every plan satisfies: complete, matched, without deadlock or leak. */
import { cotangentsOf } from "../../runtime/plan.ts";
import { chainEnds, worldSize } from "../../runtime/plan.ts";
import type {
  Layout,
  Manifest,
  Mesh,
  Part,
  Plan,
  RankPlan,
  Step,
  TensorSpec,
} from "../../runtime/plan.ts";
import { CompilerBug } from "../support/never.ts";
import { printPlan } from "./print.ts";
import { layoutFor } from "./writer.ts";

/** Throws CompilerBug that says which rank and step is wrong. */
export function verifyPlan(plan: Plan, manifest: Manifest): void {
  const problem = planProblem(plan, manifest);
  if (problem !== null) throw new CompilerBug(`plan ${plan.name}: ${problem}`, printPlan(plan));
}

/** The first problem of a plan in words, or null. */
export function planProblem(plan: Plan, manifest: Manifest): string | null {
  const ranks = worldSize(plan.mesh);
  if (ranks !== plan.ranks.length) return `a mesh of ${ranks} has ${plan.ranks.length} ranks`;
  for (const rank of plan.ranks) {
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

/** Follows the buffers of one rank through its steps. */
class RankCheck {
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
      const problem = this.stepProblem(step);
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
        const unbound = specs.find(({ name }) => step.args[name] === undefined);
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

/** The messages that a step sends and waits for; a collective is one of each with every other rank. */
export function messagesOf(step: Step, rank: number, ranks: number) {
  const channel = (from: number, to: number, tag: number) => `${from} to ${to} tag ${tag}`;
  switch (step.kind) {
    case "send":
      return { sends: [channel(rank, step.to, step.tag)], waits: [], peers: [step.to] };
    case "recv":
      return { sends: [], waits: [channel(step.from, rank, step.tag)], peers: [step.from] };
    case "allgather":
    case "allreduce":
    case "reshard": {
      // Each begins with the rank behind it, so that no two send to one rank at a time.
      // Of a move every rank is one, though it may have nothing to send to some.
      const group =
        step.kind === "reshard" ? Array.from({ length: ranks }, (_, i) => i) : step.group;
      const place = group.indexOf(rank);
      const peers = [...group.slice(place + 1), ...group.slice(0, place)];
      return {
        sends: peers.map((other) => channel(rank, other, step.tag)),
        waits: peers.map((other) => channel(other, rank, step.tag)),
        peers,
      };
    }
    default:
      return { sends: [], waits: [], peers: [] };
  }
}

/** Every send meets a recv of the same size, in order, and the other way round. */
function messageProblem(plan: Plan, manifest: Manifest): string | null {
  const { inputs, forms } = manifest;
  const sent = new Map<string, string[]>();
  const received = new Map<string, string[]>();
  const push = (map: Map<string, string[]>, key: string, size: string) =>
    map.set(key, [...(map.get(key) ?? []), size]);
  for (const { rank, steps } of plan.ranks) {
    const states = forms.find(({ name }) => name === "forward")?.inputs ?? [];
    const given = [
      ...inputs,
      ...states.filter(({ per }) => per === "state"),
      ...cotangentsOf(manifest),
    ];
    const buffers = new Map<string, Buffer>(
      given.map((spec) => [spec.name, { spec, layout: "tokens" }]),
    );
    for (const step of steps) {
      if (step.kind === "alloc") {
        buffers.set(step.buffer, { spec: step.spec, layout: step.layout ?? "tokens" });
      }
      const { sends, waits, peers } = messagesOf(step, rank, plan.ranks.length);
      const wrong = peers.find((peer) => peer === rank || peer < 0 || peer >= plan.ranks.length);
      if (wrong !== undefined) return `rank ${rank}: step ${step.id} names rank ${wrong}`;
      if (step.kind === "reshard") continue;
      const buffer = "buffer" in step ? buffers.get(step.buffer) : undefined;
      const part = "part" in step ? step.part : undefined;
      const size = buffer ? sizeKey(buffer, rank, part) : "?";
      for (const key of sends) push(sent, key, size);
      for (const key of waits) push(received, key, size);
    }
  }
  for (const key of new Set([...sent.keys(), ...received.keys()])) {
    const [out, back] = [sent.get(key) ?? [], received.get(key) ?? []];
    if (out.length !== back.length) return `${key}: ${out.length} sent, ${back.length} received`;
    const differing = out.findIndex((size, i) => size !== back[i]);
    if (differing >= 0) return `${key}: sent ${out[differing]}, received ${back[differing]}`;
  }
  return null;
}

/** Runs the plan with sends that never wait; what cannot finish waits for itself. */
function deadlock(plan: Plan): string | null {
  const done = plan.ranks.map(() => new Set<number>());
  const mail = new Map<string, number>();
  const count = (key: string) => mail.get(key) ?? 0;
  // A queue for each stream of each rank, whose first step is next.
  const queues = plan.ranks.flatMap(({ rank, steps }) =>
    (["compute", "transfer"] as const).map((stream) => ({
      rank,
      steps: steps.filter((step) => step.stream === stream),
      at: 0,
      waits: null as readonly string[] | null,
    })),
  );
  // Takes a queue as far as it goes; gives whether it moved.
  const advance = (queue: (typeof queues)[number]): boolean => {
    const { rank, steps } = queue;
    const from = queue.at;
    let hasSent = false;
    for (; queue.at < steps.length; queue.at++) {
      const step = steps[queue.at]!;
      if (step.after.some((id) => !done[rank]!.has(id))) break;
      if (queue.waits === null) {
        const { sends, waits } = messagesOf(step, rank, plan.ranks.length);
        for (const key of sends) mail.set(key, count(key) + 1);
        hasSent ||= sends.length > 0;
        queue.waits = waits;
      }
      if (queue.waits.some((key) => count(key) === 0)) break;
      for (const key of queue.waits) mail.set(key, count(key) - 1);
      done[rank]!.add(step.id);
      queue.waits = null;
    }
    return hasSent || queue.at > from;
  };
  for (let moved = true; moved;) {
    moved = false;
    for (const queue of queues) moved = advance(queue) || moved;
  }
  const stuck = plan.ranks.find(({ rank, steps }) => done[rank]!.size < steps.length);
  if (!stuck) return null;
  const waiting = stuck.steps.find((step) => !done[stuck.rank]!.has(step.id))!;
  return `rank ${stuck.rank} waits forever at step ${waiting.id} (${waiting.kind})`;
}
