/**
 * Ring Attention: keys, values and gates travel from rank to rank, and each looks at what passes by.
 *
 *   send   k, v and gates to the rank after, and the first state
 *   recv   those of the ranks before, the nearest first, and pass them on
 *   launch summary over what passed             of that rank's tokens
 *   launch fold_S, once for each of them          from the first rank on, when all have passed
 *   launch forward with initial_S
 *
 * and for the gradients the same the other way:
 *
 *   send   q, d_o and gates to the rank before, what the range multiplies a state with, and the last cotangent
 *   launch summary_bwd over what passed
 *   launch fold_S                               from the last rank on
 *   launch backward with d_final_S
 *
 * For linear attention to see the tokens before its own is to have their state; they come last first, so
 * summaries wait for the first rank's. Tokens go to those ranks only that are to see them: the last but one
 * sends P - 1 parts, as every rank does in a full turn. Folded in the order of `ring`, bit for bit the same.
 * The paper's backward turns k and v once more, and their gradients with them: a softmax has to meet each key again.
 * Here a key's gradient reads the cotangent of the state, which q and d_o make, so that half as much turns.
 * Source: Ring Attention, arXiv 2310.01889.
 */
import type { FormSpec, Manifest, Plan, RankPlan, TensorSpec } from "../../runtime/plan.ts";
import { levelsOf } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { resultsOf } from "./heads.ts";
import { factorOf } from "./lane.ts";
import { StepWriter } from "./writer.ts";
import { ownOf } from "../../runtime/records.ts";

/** Throws Unsupported for states that no summaries of ranges fold into. */
export function ringAttentionPlan(manifest: Manifest, ranks: number, backward = false): Plan {
  const { states } = manifest;
  const names = states.map(({ name }) => name).join(", ");
  const problem = states.some(({ dense }) => dense)
    ? `cannot fold a state of ${names}, whose transition is dense, from the last range to the first`
    : states.some(({ causal }) => !causal)
      ? `has no full turn yet, and every token reads all of ${names}`
      : new Set(states.map(({ reverse }) => reverse)).size > 1
        ? `goes one way, and the states ${names} run both`
        : levelsOf(states).length > 1
          ? `needs what a state writes before it is read, and of ${names} some write what is read of others`
          : null;
  if (ranks > 1 && problem !== null) {
    throw new Unsupported(`ring-attention ${problem}; --schedule ring or ulysses may do`);
  }
  return {
    name: `ring-attention-${ranks}`,
    schedule: "ring-attention",
    mesh: { seq: ranks, data: 1 },
    ranks: Array.from({ length: ranks }, (_, rank) => rankPlan(manifest, rank, ranks, backward)),
  };
}

function rankPlan(manifest: Manifest, rank: number, ranks: number, backward: boolean): RankPlan {
  const { states } = manifest;
  const writer = new StepWriter(manifest);
  const all = Array.from({ length: ranks }, (_, i) => i);
  const order = states[0]?.reverse ? [...all].reverse() : all;
  const turns = ranks > 1 && states.length > 0;
  let tag = 0;
  const turn = (isGradient: boolean) => {
    const along = isGradient ? [...order].reverse() : order;
    const made = new Turn({ writer, manifest, order: along, rank, isGradient, tag });
    made.write();
    tag += made.tags;
  };
  if (turns) turn(false);
  writer.launch("forward");
  if (backward) {
    if (turns) turn(true);
    writer.launch("backward");
    const gradients = formOf(manifest, "backward").outputs;
    for (const { name, per } of ranks > 1 ? gradients : []) {
      if (per === "head" || per === "shared") writer.allreduce(name, all, tag++);
    }
  }
  return { rank, steps: writer.finish(resultsOf(manifest, rank, ranks)) };
}

interface TurnOptions {
  readonly writer: StepWriter;
  readonly manifest: Manifest;
  /** Ranks in the order in which a state, or its cotangent, passes them. */
  readonly order: readonly number[];
  readonly rank: number;
  readonly isGradient: boolean;
  /** The first of the tags that messages carry. */
  readonly tag: number;
}

/** One turn of tokens; ends with what the ranks before leave: `initial_S` there, or `d_final_S`. */
class Turn {
  private readonly options: TurnOptions;
  private readonly place: number;
  /** What is launched over tokens that pass. */
  private readonly form: FormSpec;
  /** What travels: tokens, and of each range what it multiplies states with and the states its gradients need. */
  private readonly travelling: readonly TensorSpec[];

  constructor(options: TurnOptions) {
    const { manifest, isGradient, order, rank } = options;
    this.options = options;
    this.place = order.indexOf(rank);
    this.form = formOf(manifest, isGradient ? "summary_bwd" : "summary");
    const factors = isGradient
      ? manifest.states.flatMap((one) => factorOf(manifest, one) ?? [])
      : [];
    const read = this.form.inputs.filter(({ per }) => per === "token" || per === "state");
    this.travelling = [...read, ...factors];
  }

  get tags(): number {
    return this.options.manifest.states.length + this.travelling.length;
  }

  write(): void {
    const { writer, manifest, order, isGradient } = this.options;
    const carried = isGradient ? "d_final" : "initial";
    const [before, after] = [order[this.place - 1], order[this.place + 1]];
    manifest.states.forEach(({ name, dims }, i) => {
      const tag = this.options.tag + i;
      const first = this.place > 0 ? `${carried}_0_${name}` : `${carried}_${name}`;
      if (before !== undefined) writer.recv(first, dims, before, tag);
      if (after !== undefined) writer.send(first, after, tag);
    });
    if (after !== undefined) this.sendOwn();
    // Of the ranks before this one, the nearest first.
    const sources = order.slice(0, this.place).reverse();
    if (sources.length > 0) this.take(sources[0]!);
    sources.forEach((source, i) => {
      // The next tokens arrive while these are summed up.
      if (i + 1 < sources.length) this.take(sources[i + 1]!);
      const passing = this.travelling.map(({ name }) => [name, passingName(name, source)]);
      const renamed = { ...Object.fromEntries(passing), ...this.passed(source) };
      writer.launch(this.form.name, renamed, { layout: source });
    });
    order.slice(0, this.place).forEach((source, i) => this.fold(source, i, carried));
  }

  private sendOwn(): void {
    const { writer, manifest, isGradient } = this.options;
    const needsFactor = manifest.states.some((state) => factorOf(manifest, state) !== null);
    if (isGradient && needsFactor) writer.launch("summary");
    this.travelling.forEach(({ name }, i) => this.send(name, i));
  }

  /** Receives what travels of a rank, and passes it on. */
  private take(source: number): void {
    const { writer, order } = this.options;
    const before = order[this.place - 1]!;
    this.travelling.forEach((spec, i) => {
      const name = passingName(spec.name, source);
      const tag = this.tagOf(i);
      if (spec.per === "token") writer.recvTensor(name, spec, source, before, tag);
      else writer.recv(name, spec.dims, before, tag);
      this.send(name, i);
    });
  }

  private send(name: string, i: number): void {
    const { writer, order } = this.options;
    const after = order[this.place + 1];
    if (after !== undefined) writer.send(name, after, this.tagOf(i));
  }

  private tagOf(i: number): number {
    return this.options.tag + this.options.manifest.states.length + i;
  }

  private passed(source: number): Record<string, string> {
    return Object.fromEntries(
      this.form.outputs.map(({ name }) => [name, `passed_${name}_${source}`]),
    );
  }

  private fold(source: number, i: number, carried: string): void {
    const { writer, manifest, isGradient } = this.options;
    const passed = this.passed(source);
    for (const state of manifest.states) {
      const { name } = state;
      const isLast = i === this.place - 1;
      const factor = factorOf(manifest, state);
      const added = `${isGradient ? "d_" : ""}summary_${name}`;
      const multiplied = factor && (ownOf(passed, factor.name) ?? passingName(factor.name, source));
      writer.launch(`fold_${name}`, {
        [`initial_${name}`]: `${carried}_${i}_${name}`,
        [`summary_${name}`]: passed[added]!,
        ...(factor && { [factor.name]: multiplied! }),
        [`final_${name}`]: isLast ? `${carried}_${name}` : `${carried}_${i + 1}_${name}`,
      });
    }
  }
}

function passingName(name: string, source: number): string {
  return `passing_${name}_${source}`;
}

function formOf(manifest: Manifest, name: string): FormSpec {
  return manifest.forms.find((form) => form.name === name)!;
}
