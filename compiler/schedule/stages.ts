/**
 * The frame of every schedule: summarise, exchange, output; forwards, and then for the gradients.
 *
 *   exchange   of each state up its chain       initial_S
 *   launch     forward                          from initial_S, which is kept for the gradients
 *   launch     summary_bwd                      what this range adds to the cotangent of its first state
 *   exchange   of each cotangent back           d_final_S
 *   launch     backward
 *   allreduce  gradients of what all tokens share
 *
 * What one state writes may come from reads of another. Then exchanges go by levels of that dependency, a round
 * each: those of level 1 begin when the states of level 0 have arrived, and cotangents go from the last level to
 * the first.
 *
 * With overlap the forward is two launches: `local` beside the exchange, and `join` when initial_S is there.
 *
 * The exchange launches `summary` before it waits. Without a mask a token reads the states of all: what comes from
 * behind travels a chain of its own, and both meet in initial_S.
 */
import type { Manifest, Mesh, Plan, RankPlan, StateSpec } from "../../runtime/plan.ts";
import { formGiving, levelsOf, seqGroup, worldSize } from "../../runtime/plan.ts";
import { type Exchange, Lane } from "./lane.ts";
import { StepWriter } from "./writer.ts";

export interface PlanOptions {
  /** The gradients of all inputs too. */
  readonly backward: boolean;
  /** The forward in two parts, `local` and `join`, where a rank waits for its first state. */
  readonly overlap: boolean;
}

export function planOfExchange(
  name: string,
  exchange: Exchange,
  manifest: Manifest,
  mesh: Mesh,
  { backward, overlap }: PlanOptions,
): Plan {
  const ranks = worldSize(mesh);
  const size = mesh.data === 1 ? `${mesh.seq}` : `${mesh.seq}x${mesh.data}`;
  return {
    name: `${name}-${size}`,
    schedule: name,
    mesh,
    ranks: Array.from({ length: ranks }, (_, rank) =>
      new RankStages(manifest, exchange, mesh, rank, overlap).run(backward),
    ),
  };
}

/** Buffers of tensors that a plan calls otherwise. */
type Renamed = Readonly<Record<string, string>>;

class RankStages {
  private readonly writer: StepWriter;
  private readonly launched = new Set<string>();
  private tag = 0;
  private readonly manifest: Manifest;
  private readonly exchange: Exchange;
  private readonly mesh: Mesh;
  private readonly rank: number;
  private readonly overlap: boolean;

  constructor(manifest: Manifest, exchange: Exchange, mesh: Mesh, rank: number, overlap: boolean) {
    this.writer = new StepWriter(manifest);
    this.manifest = manifest;
    this.exchange = exchange;
    this.mesh = mesh;
    this.rank = rank;
    this.overlap = overlap;
  }

  run(backward: boolean): RankPlan {
    const { writer, manifest, rank } = this;
    const { states, outputs } = manifest;
    const initials = this.exchangeAll(false, {});
    const results = new Set(outputs.map(({ name }) => name));
    const ending = states.filter((state) => this.order(state, false).at(-1) === rank);
    for (const { name } of ending) results.add(`final_${name}`);
    if (!this.launched.has("local")) writer.launch("forward", initials);
    else {
      writer.launch("join", initials);
      for (const state of ending) {
        this.summarise(state, false, initials);
        writer.launch(`fold_${state.name}`, initials);
      }
    }
    if (backward) {
      const finals = this.exchangeAll(true, initials);
      writer.launch("backward", { ...initials, ...finals });
      this.sumShared(results);
      for (const state of states) {
        if (this.order(state, false)[0] !== rank) results.delete(`d_initial_${state.name}`);
      }
    }
    return { rank, steps: writer.finish(results) };
  }

  /** Gives what `initial_S`, or `d_final_S`, of every state is called then; `known`: tensors by then renamed. */
  private exchangeAll(isGradient: boolean, known: Renamed): Record<string, string> {
    const arrived: Record<string, string> = {};
    if (this.mesh.seq === 1) return arrived;
    const levels = levelsOf(this.manifest.states);
    for (const states of isGradient ? levels.reverse() : levels) {
      const before = { ...known, ...arrived };
      for (const state of states) {
        const carried = `${isGradient ? "d_final" : "initial"}_${state.name}`;
        const name = this.exchangeOne(state, isGradient, carried, before);
        if (name !== carried) arrived[carried] = name;
      }
    }
    return arrived;
  }

  private exchangeOne(
    state: StateSpec,
    isGradient: boolean,
    carried: string,
    known: Renamed,
  ): string {
    const order = this.order(state, isGradient);
    const lane = (
      along: readonly number[],
      given: string | null,
      result: string,
    ): string | null => {
      const { writer, manifest, rank } = this;
      const own = `${isGradient ? "d_summary" : "summary"}_${state.name}`;
      const summarise = () => this.summarise(state, isGradient, known);
      const [tag, base] = [this.tag, { writer, manifest, state, rank, isGradient }];
      this.tag += 2;
      const beforeWaiting = () => {
        if (this.overlap && !isGradient) this.once("local");
      };
      const lane = { ...base, order: along, given, result, own, tag, summarise, beforeWaiting };
      const made = new Lane(lane);
      this.exchange(made);
      return made.result;
    };
    if (state.causal) return lane(order, carried, carried)!;
    const before = lane(order, carried, `before_${carried}`);
    const behind = lane([...order].reverse(), null, `behind_${carried}`);
    if (before === null || behind === null) return (before ?? behind)!;
    const S = state.name;
    const into = `around_${carried}`;
    this.writer.launch(`fold_${S}`, {
      [`initial_${S}`]: before,
      [`summary_${S}`]: behind,
      [`final_${S}`]: into,
    });
    return into;
  }

  /** What this rank's tokens add to a state, and what they multiply it with. */
  private summarise({ name, dense, logDecay }: StateSpec, isGradient: boolean, known: Renamed) {
    const factor = dense ? `transition_${name}` : logDecay;
    const tensors = isGradient ? [factor, `d_summary_${name}`] : [`summary_${name}`, factor];
    for (const tensor of tensors) {
      if (tensor !== null) this.once(formGiving(this.manifest, tensor)!.name, known);
    }
  }

  private once(form: string, renamed: Renamed = {}): void {
    if (!this.launched.has(form)) this.writer.launch(form, renamed);
    this.launched.add(form);
  }

  /** World ranks in the order in which the state, or its cotangent, passes them. */
  private order({ reverse }: StateSpec, isGradient: boolean): readonly number[] {
    const group = seqGroup(this.mesh, this.rank);
    return reverse === isGradient ? group : [...group].reverse();
  }

  private sumShared(results: Set<string>): void {
    const { outputs } = this.manifest.forms.find(({ name }) => name === "backward")!;
    const group = Array.from({ length: worldSize(this.mesh) }, (_, rank) => rank);
    for (const { name, per } of outputs) {
      results.add(name);
      const isShared = per === "head" || per === "shared";
      if (isShared && group.length > 1) this.writer.allreduce(name, group, this.tag++);
    }
  }
}
