/**
 * Ring Attention: keys, values and gates travel from rank to rank, and each looks at what passes by.
 *
 *   send   k, v and gates to the rank after, and the first state
 *   recv   those of the ranks before, the nearest first, and pass them on
 *   launch summary over what passed             of that rank's tokens
 *   launch fold_S, once for each of them          from the first rank on, when all have passed
 *   launch forward with initial_S
 *
 * For linear attention to see the tokens before its own is to have their state; they come last first, so
 * summaries wait for the first rank's. Tokens go to those ranks only that are to see them: the last but one
 * sends P - 1 parts, as every rank does in a full turn. Folded in the order of `ring`, bit for bit the same.
 * Source: Ring Attention, arXiv 2310.01889.
 */
import type { Manifest, Plan, RankPlan } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { resultsOf } from "./heads.ts";
import { StepWriter } from "./writer.ts";

/** Throws Unsupported for gradients, and for states that no summaries of ranges fold into. */
export function ringAttentionPlan(manifest: Manifest, ranks: number, backward = false): Plan {
  const { states } = manifest;
  const names = states.map(({ name }) => name).join(", ");
  const problem = backward
    ? "has no gradients here"
    : states.some(({ dense }) => dense)
      ? `cannot fold a state of ${names}, whose transition is dense, from the last range to the first`
      : states.some(({ causal }) => !causal)
        ? `has no full turn yet, and every token reads all of ${names}`
        : new Set(states.map(({ reverse }) => reverse)).size > 1
          ? `goes one way, and the states ${names} run both`
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
  const order = Array.from({ length: ranks }, (_, i) => i);
  if (states[0]?.reverse) order.reverse();
  const place = order.indexOf(rank);
  if (ranks > 1 && states.length > 0) turn(writer, manifest, order, place);
  writer.launch("forward");
  if (backward) writer.launch("backward");
  return { rank, steps: writer.finish(resultsOf(manifest, rank, ranks)) };
}

/** Ends with `initial_S` there: what the ranks before leave. */
function turn(
  writer: StepWriter,
  manifest: Manifest,
  order: readonly number[],
  place: number,
): void {
  const { states } = manifest;
  const summary = manifest.forms.find(({ name }) => name === "summary")!;
  const travelling = summary.inputs.filter(({ per }) => per === "token");
  const [before, after] = [order[place - 1], order[place + 1]];
  const tagOf = (i: number) => states.length + i;
  const pass = (name: string, tag: number) => {
    if (after !== undefined) writer.send(name, after, tag);
  };
  states.forEach(({ name, dims }, tag) => {
    const first = place > 0 ? `folded_0_${name}` : `initial_${name}`;
    if (before !== undefined) writer.recv(first, dims, before, tag);
    pass(first, tag);
  });
  travelling.forEach(({ name }, i) => pass(name, tagOf(i)));
  const passing = (name: string, source: number) => `passing_${name}_${source}`;
  const take = (source: number) =>
    travelling.forEach((spec, i) => {
      writer.recvTensor(passing(spec.name, source), spec, source, before!, tagOf(i));
      pass(passing(spec.name, source), tagOf(i));
    });
  const passed = (source: number) =>
    Object.fromEntries(summary.outputs.map(({ name }) => [name, `passed_${name}_${source}`]));
  const sources = order.slice(0, place).reverse();
  if (sources.length > 0) take(sources[0]!);
  sources.forEach((source, i) => {
    // The next tokens arrive while these are summed up.
    if (i + 1 < sources.length) take(sources[i + 1]!);
    const tokens = travelling.map(({ name }) => [name, passing(name, source)]);
    const renamed = { ...Object.fromEntries(tokens), ...passed(source) };
    writer.launch("summary", renamed, { layout: source });
  });
  order.slice(0, place).forEach((source, i) => {
    const next = i === place - 1 ? "initial" : `folded_${i + 1}`;
    for (const { name } of states) {
      const [initial, final] = [`folded_${i}_${name}`, `${next}_${name}`];
      const state = { [`initial_${name}`]: initial, [`final_${name}`]: final };
      writer.launch(`fold_${name}`, { ...passed(source), ...state });
    }
  });
}
