/** What every plan satisfies: complete, matched, without deadlock or leak. */
import { cotangentsOf } from "../../runtime/plan.ts";
import type { Manifest, Plan, RankPlan, StateSpec, Step, TensorSpec } from "../../runtime/plan.ts";
import { CompilerBug } from "../support/never.ts";
import { printPlan } from "./print.ts";

/** Throws CompilerBug that says which rank and step is wrong. */
export function verifyPlan(plan: Plan, manifest: Manifest): void {
  const problem = planProblem(plan, manifest);
  if (problem !== null) throw new CompilerBug(`plan ${plan.name}: ${problem}`, printPlan(plan));
}

/** The first problem of a plan in words, or null. */
export function planProblem(plan: Plan, manifest: Manifest): string | null {
  for (const rank of plan.ranks) {
    const problem = rankProblem(rank, manifest, plan.ranks.length);
    if (problem !== null) return `rank ${rank.rank}: ${problem}`;
  }
  return messageProblem(plan) ?? deadlock(plan);
}

/** A buffer's size apart from B, T and H, which are the same for all ranks' states. */
function sizeKey({ per, dtype, dims }: TensorSpec): string {
  return `${per} ${dtype} [${dims.join(", ")}]`;
}

function rankProblem(plan: RankPlan, manifest: Manifest, ranks: number): string | null {
  const live = new Map<string, TensorSpec | null>();
  const written = new Set<string>();
  const give = (name: string) => {
    live.set(name, null);
    written.add(name);
  };
  for (const { name } of manifest.inputs) give(name);
  // A plan that runs the gradients is given the cotangents and leaves a gradient for each input.
  const isBackward = plan.steps.some((step) => step.kind === "launch" && step.form === "backward");
  const cotangents = isBackward ? cotangentsOf(manifest) : [];
  const gradients = isBackward
    ? manifest.forms.find(({ name }) => name === "backward")!.outputs
    : [];
  const startsHere = ({ reverse }: StateSpec) => plan.rank === (reverse ? ranks - 1 : 0);
  const endsHere = ({ reverse }: StateSpec) => plan.rank === (reverse ? 0 : ranks - 1);
  const starts = manifest.states.filter(startsHere);
  const ends = manifest.states.filter(endsHere);
  const elsewhere = new Set([
    ...manifest.states.filter((state) => !endsHere(state)).map(({ name }) => `d_final_${name}`),
    ...manifest.states.filter((state) => !startsHere(state)).map(({ name }) => `d_initial_${name}`),
  ]);
  for (const { name } of cotangents) if (!elsewhere.has(name)) give(name);
  for (const { name } of starts) give(`initial_${name}`);
  for (const [i, step] of plan.steps.entries()) {
    const at = `step ${i} (${step.kind})`;
    if (step.id !== i) return `${at} has id ${step.id}`;
    if (step.after.some((id) => id >= i || id < 0)) return `${at} waits for a later step`;
    const problem = stepProblem(step, manifest, live, written);
    if (problem !== null) return `${at} ${problem}`;
  }
  // What is left: the caller's own, the outputs, and the final states where their chain ends.
  const kept = new Set([
    ...[...manifest.inputs, ...manifest.outputs].map(({ name }) => name),
    ...ends.map(({ name }) => `final_${name}`),
    ...starts.map(({ name }) => `initial_${name}`),
    ...[...cotangents, ...gradients].map(({ name }) => name).filter((x) => !elsewhere.has(x)),
  ]);
  const leaked = [...live.keys()].find((name) => !kept.has(name));
  if (leaked !== undefined) return `${leaked} is never freed`;
  const promised = [
    ...manifest.outputs.map(({ name }) => name),
    ...ends.map(({ name }) => `final_${name}`),
    ...gradients.map(({ name }) => name).filter((name) => !elsewhere.has(name)),
  ];
  const missing = promised.find((name) => !written.has(name));
  return missing === undefined ? null : `${missing} is never written`;
}

function stepProblem(
  step: Step,
  manifest: Manifest,
  live: Map<string, TensorSpec | null>,
  written: Set<string>,
): string | null {
  switch (step.kind) {
    case "alloc":
      if (live.has(step.buffer)) return `allocates ${step.buffer} twice`;
      live.set(step.buffer, step.spec);
      return null;
    case "free":
      if (!live.has(step.buffer)) return `frees ${step.buffer}, which is not there`;
      live.delete(step.buffer);
      written.delete(step.buffer);
      return null;
    case "send":
      return written.has(step.buffer) ? null : `sends ${step.buffer}, which nothing wrote`;
    case "recv":
      if (!live.has(step.buffer)) return `receives ${step.buffer}, which is not there`;
      written.add(step.buffer);
      return null;
    case "launch": {
      const form = manifest.forms.find(({ name }) => name === step.form);
      if (!form) return `launches ${step.form}, which is no form`;
      for (const { name } of form.inputs) {
        const buffer = step.args[name];
        if (buffer === undefined) return `gives ${step.form} no ${name}`;
        if (!written.has(buffer)) return `reads ${buffer}, which nothing wrote`;
      }
      for (const { name } of form.outputs) {
        const buffer = step.args[name];
        if (buffer === undefined) return `gives ${step.form} no ${name}`;
        if (!live.has(buffer)) return `writes ${buffer}, which is not there`;
        written.add(buffer);
      }
      return null;
    }
  }
}

/** Every send meets a recv of the same size, in order, and the other way round. */
function messageProblem(plan: Plan): string | null {
  const channel = (from: number, to: number, tag: number) => `${from} to ${to} tag ${tag}`;
  const sent = new Map<string, string[]>();
  const received = new Map<string, string[]>();
  const push = (map: Map<string, string[]>, key: string, size: string) =>
    map.set(key, [...(map.get(key) ?? []), size]);
  for (const { rank, steps } of plan.ranks) {
    const specs = new Map<string, TensorSpec>();
    for (const step of steps) {
      if (step.kind === "alloc") specs.set(step.buffer, step.spec);
      if (step.kind !== "send" && step.kind !== "recv") continue;
      const peer = step.kind === "send" ? step.to : step.from;
      if (peer === rank || peer < 0 || peer >= plan.ranks.length) {
        return `rank ${rank}: step ${step.id} names rank ${peer}`;
      }
      const spec = specs.get(step.buffer);
      const size = spec ? sizeKey(spec) : "?";
      if (step.kind === "send") push(sent, channel(rank, peer, step.tag), size);
      else push(received, channel(peer, rank, step.tag), size);
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
  for (let moved = true; moved;) {
    moved = false;
    for (const { rank, steps } of plan.ranks) {
      for (const stream of ["compute", "transfer"] as const) {
        const step = steps.find((one) => one.stream === stream && !done[rank]!.has(one.id));
        if (!step || step.after.some((id) => !done[rank]!.has(id))) continue;
        if (step.kind === "send") {
          const key = `${rank}>${step.to}#${step.tag}`;
          mail.set(key, (mail.get(key) ?? 0) + 1);
        } else if (step.kind === "recv") {
          const key = `${step.from}>${rank}#${step.tag}`;
          if (!mail.get(key)) continue;
          mail.set(key, mail.get(key)! - 1);
        }
        done[rank]!.add(step.id);
        moved = true;
      }
    }
  }
  const stuck = plan.ranks.find(({ rank, steps }) => done[rank]!.size < steps.length);
  if (!stuck) return null;
  const first = stuck.steps.find((step) => !done[stuck.rank]!.has(step.id))!;
  return `rank ${stuck.rank} waits forever at step ${first.id} (${first.kind})`;
}
