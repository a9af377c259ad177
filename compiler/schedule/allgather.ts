/**
 * LASP-2: every rank gets the summaries of all before it at once and folds them itself.
 *
 *   launch summary                              needs keys, values and gates only
 *   send   summary_S, decay_S to the ranks after      (the first sends its state, initial_S folded in)
 *   recv   the same from the ranks before
 *   launch fold, once for each of them
 *   launch forward with initial_S
 *
 * and for the gradients the same from the last rank to the first. One message's latency in place of the ring's
 * P - 1, for up to P - 1 states received; folded in the ring's order, so the numbers are the ring's, bit for bit.
 * Source: LASP-2, arXiv 2502.07563, whose states have no decay; with one the prefix is weighted.
 */
import type { Manifest, Plan, RankPlan, StateSpec } from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";
import { renamed } from "./ring.ts";
import { StepWriter } from "./writer.ts";

/** Throws Unsupported for states whose ranges have no summaries, or that do not run one way. */
export function allgatherPlan(manifest: Manifest, ranks: number, backward = false): Plan {
  const { states } = manifest;
  const problem = states.some(({ dense }) => dense)
    ? "has a dense transition"
    : states.some(({ causal }) => !causal)
      ? "is read whole by every token"
      : new Set(states.map(({ reverse }) => reverse)).size > 1
        ? "runs in both directions"
        : null;
  if (ranks > 1 && problem !== null) {
    const names = states.map(({ name }) => name).join(", ");
    throw new Unsupported(`allgather: a state of ${names} ${problem}; --schedule ring may do`);
  }
  return {
    name: `allgather-${ranks}`,
    schedule: "allgather",
    ranks: Array.from({ length: ranks }, (_, rank) => rankPlan(manifest, rank, ranks, backward)),
  };
}

function rankPlan(manifest: Manifest, rank: number, ranks: number, backward: boolean): RankPlan {
  const { states } = manifest;
  const writer = new StepWriter(manifest);
  const all = Array.from({ length: ranks }, (_, i) => i);
  const order = states[0]?.reverse ? all.reverse() : all;
  const [isFirst, isLast] = [rank === order[0], rank === order.at(-1)];
  const isAlone = ranks === 1 || states.length === 0;
  const gather = (from: Gathering) => new Gatherer(writer, manifest, rank, from).run();
  if (!isAlone) {
    if (!isLast || backward) writer.launch("summary");
    gather({ order, carried: "initial", added: "summary", tag: 0 });
  }
  writer.launch("forward");
  // Freeing waits for the sends, so it stands behind the output, which does not.
  writer.freeAll((name) => name.startsWith("summary_"));
  if (!backward) writer.freeAll((name) => name.startsWith("decay_"));
  if (!isLast) {
    writer.freeAll((name) => states.some((state) => name === `final_${state.name}`));
  }
  if (backward) {
    if (!isAlone) {
      if (!isFirst) writer.launch("summary_bwd");
      const tag = 2 * states.length;
      gather({ order: [...order].reverse(), carried: "d_final", added: "d_summary", tag });
    }
    writer.launch("backward");
    if (!isFirst) {
      writer.freeAll((name) => states.some((state) => name === `d_initial_${state.name}`));
    }
  }
  writer.freeAll((name) => /^(d_summary|decay|d_final|initial|folded|gathered)_/.test(name));
  return { rank, steps: writer.finish(manifest) };
}

interface Gathering {
  /** Ranks, from the one whose caller gives what is carried. */
  readonly order: readonly number[];
  readonly carried: "initial" | "d_final";
  readonly added: "summary" | "d_summary";
  /** The first of the tags, two for each state. */
  readonly tag: number;
}

/** Writes the exchange of one direction, after which `carried_S` is there on every rank. */
class Gatherer {
  private readonly states: readonly StateSpec[];
  private readonly writer: StepWriter;
  private readonly manifest: Manifest;
  private readonly rank: number;
  private readonly from: Gathering;

  constructor(writer: StepWriter, manifest: Manifest, rank: number, from: Gathering) {
    this.states = manifest.states;
    this.writer = writer;
    this.manifest = manifest;
    this.rank = rank;
    this.from = from;
  }

  run(): void {
    const { order, carried, added } = this.from;
    const place = order.indexOf(this.rank);
    const behind = order.slice(place + 1);
    if (place === 0) {
      this.fold(carried, added, "decay", `folded_${carried}`);
      for (const to of behind) this.sendStates(`folded_${carried}`, to);
      return;
    }
    for (const to of behind) {
      this.sendStates(added, to);
      this.sendDecays(to);
    }
    // The first one's state, and then what each rank between adds to it.
    let current = place === 1 ? carried : `gathered_${carried}_0`;
    this.recvStates(current, order[0]!);
    order.slice(1, place).forEach((rank, i) => {
      this.recvStates(`gathered_${added}_${rank}`, rank);
      this.recvDecays(`gathered_decay_${rank}`, rank);
      const next = i === place - 2 ? carried : `gathered_${carried}_${i + 1}`;
      this.fold(current, `gathered_${added}_${rank}`, `gathered_decay_${rank}`, next);
      current = next;
    });
  }

  private fold(initial: string, summary: string, decay: string, final: string): void {
    this.writer.launch("fold", {
      ...renamed(this.states, "initial", initial),
      ...renamed(this.states, "summary", summary),
      ...renamed(this.states, "decay", decay),
      ...renamed(this.states, "final", final),
    });
  }

  private sendStates(label: string, to: number): void {
    this.states.forEach(({ name }, i) =>
      this.writer.send(`${label}_${name}`, to, this.from.tag + 2 * i),
    );
  }

  private recvStates(label: string, from: number): void {
    this.states.forEach(({ name, dims }, i) =>
      this.writer.recv(`${label}_${name}`, dims, from, this.from.tag + 2 * i),
    );
  }

  private sendDecays(to: number): void {
    this.states.forEach(({ name, logDecay }, i) => {
      if (logDecay !== null) this.writer.send(`decay_${name}`, to, this.from.tag + 2 * i + 1);
    });
  }

  private recvDecays(label: string, from: number): void {
    const { outputs } = this.manifest.forms.find((form) => form.name === "summary")!;
    this.states.forEach(({ name, logDecay }, i) => {
      if (logDecay === null) return;
      const { dims } = outputs.find((spec) => spec.name === logDecay)!;
      this.writer.recv(`${label}_${name}`, dims, from, this.from.tag + 2 * i + 1);
    });
  }
}
