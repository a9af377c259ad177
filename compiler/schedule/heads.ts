/**
 * What Ulysses and Megatron have in common: each rank computes whole sequences of its share of the heads.
 *
 *   reshard inputs to heads                     how is what the two differ in
 *   launch  forward over heads                  any attention, with a mask or without
 *   reshard outputs to tokens
 *
 * The first state comes from the rank that the caller gives it to, the final one goes to where chains end,
 * and the gradients go back the way their inputs came.
 */
import type { Layout, Manifest, Plan, RankPlan, TensorSpec } from "../../runtime/plan.ts";
import { chainEnds, cotangentsOf } from "../../runtime/plan.ts";
import { StepWriter } from "./writer.ts";

/** The layouts that inputs go through, from a rank's own tokens. */
export type Route = readonly ["heads"] | readonly ["whole", "heads"];

export function headsPlan(
  schedule: string,
  route: Route,
  manifest: Manifest,
  ranks: number,
  backward: boolean,
): Plan {
  return {
    name: `${schedule}-${ranks}`,
    schedule,
    mesh: { seq: ranks, data: 1 },
    ranks: Array.from({ length: ranks }, (_, rank) =>
      ranks === 1
        ? alone(manifest, backward)
        : new HeadsWriter(manifest, route, rank, ranks).run(backward),
    ),
  };
}

/** What a rank's plan leaves: outputs, gradients, and states where their chains have an end. */
export function resultsOf(manifest: Manifest, rank: number, ranks: number): Set<string> {
  const gradients = manifest.forms.find(({ name }) => name === "backward")?.outputs ?? [];
  const results = new Set([...manifest.outputs, ...gradients].map(({ name }) => name));
  for (const state of manifest.states) {
    const { begins, ends } = chainEnds(state, { seq: ranks, data: 1 }, rank);
    if (ends) results.add(`final_${state.name}`);
    if (!begins) results.delete(`d_initial_${state.name}`);
  }
  return results;
}

function alone(manifest: Manifest, backward: boolean): RankPlan {
  const writer = new StepWriter(manifest);
  writer.launch("forward");
  if (backward) writer.launch("backward");
  return { rank: 0, steps: writer.finish(resultsOf(manifest, 0, 1)) };
}

class HeadsWriter {
  private tag = 0;
  private readonly writer: StepWriter;
  private readonly manifest: Manifest;
  private readonly route: Route;
  private readonly rank: number;
  private readonly ranks: number;

  constructor(manifest: Manifest, route: Route, rank: number, ranks: number) {
    this.writer = new StepWriter(manifest);
    this.manifest = manifest;
    this.route = route;
    this.rank = rank;
    this.ranks = ranks;
  }

  run(backward: boolean): RankPlan {
    const { writer, manifest, rank } = this;
    const forward = manifest.forms.find(({ name }) => name === "forward")!;
    for (const spec of forward.inputs) this.bring(spec);
    const layout = "heads";
    writer.launch("forward", this.renamed([...forward.inputs, ...forward.outputs]), { layout });
    for (const spec of forward.outputs) if (spec.per !== "chunk") this.takeBack(spec);
    if (backward) {
      const form = manifest.forms.find(({ name }) => name === "backward")!;
      const cotangents = cotangentsOf(manifest);
      for (const spec of cotangents) this.bring(spec);
      writer.launch("backward", this.renamed([...form.inputs, ...form.outputs]), { layout });
      for (const spec of form.outputs) this.takeBack(spec);
    }
    return { rank, steps: writer.finish(resultsOf(manifest, rank, this.ranks)) };
  }

  /** What all heads share is there as it is; anything else gets a buffer of this rank's heads. */
  private renamed(specs: readonly TensorSpec[]): Record<string, string> {
    const own = specs.filter(({ per }) => per !== "shared");
    return Object.fromEntries(own.map(({ name }) => [name, `heads_${name}`]));
  }

  private bring(spec: TensorSpec): void {
    const { name, per } = spec;
    if (per === "shared" || per === "chunk") return;
    const holder = this.holderOf(name);
    if (holder !== null) {
      const buffer = holder === this.rank ? name : null;
      this.move(spec, buffer, `heads_${name}`, holder, "heads");
      return;
    }
    let [at, from]: [string, Layout] = [name, "tokens"];
    for (const to of per === "token" ? this.route : (["heads"] as const)) {
      this.move(spec, at, `${to}_${name}`, from, to);
      [at, from] = [`${to}_${name}`, to];
    }
  }

  private takeBack(spec: TensorSpec): void {
    const { name, per } = spec;
    if (per === "shared") {
      // Each rank has the sum over its heads.
      const group = Array.from({ length: this.ranks }, (_, rank) => rank);
      this.writer.allreduce(name, group, this.tag++);
      return;
    }
    // A sum over tokens, of this rank's heads alone: one rank has it, to the others it is zero.
    const holder = per === "head" ? 0 : this.holderOf(name);
    const to = holder ?? "tokens";
    const into = holder === null || holder === this.rank ? name : null;
    this.move(spec, `heads_${name}`, into, "heads", to);
    if (per === "head" && into === null) this.writer.zeros(spec);
  }

  /** The rank at which the caller has a state, or null for what is no state. */
  private holderOf(name: string): number | null {
    for (const state of this.manifest.states) {
      const [first, last] = state.reverse ? [this.ranks - 1, 0] : [0, this.ranks - 1];
      if (name === `initial_${state.name}` || name === `d_initial_${state.name}`) return first;
      if (name === `final_${state.name}` || name === `d_final_${state.name}`) return last;
    }
    return null;
  }

  private move(
    spec: TensorSpec,
    buffer: string | null,
    into: string | null,
    from: Layout,
    to: Layout,
  ): void {
    this.writer.reshard({ spec, buffer, into, from, to, tag: this.tag++ });
  }
}
