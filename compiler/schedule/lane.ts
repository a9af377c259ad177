/**
 * The way of one state along a chain of ranks: up the sequence for the forward, down for its cotangent. An
 * exchange is written against this: it finds `own`, what the rank adds, and leaves `carried`, what reaches it.
 */
import type { Manifest, Part, StateSpec, TensorSpec } from "../../runtime/plan.ts";
import type { StepWriter } from "./writer.ts";

/** Writes one rank's steps, after which `lane.result` is what all ranks before it in the chain add up to. */
export type Exchange = (lane: Lane) => void;

export interface LaneOptions {
  readonly writer: StepWriter;
  readonly manifest: Manifest;
  readonly state: StateSpec;
  /** World ranks in the order of the chain. */
  readonly order: readonly number[];
  readonly rank: number;
  /** A cotangent travels, so that matrices are transposed. */
  readonly isGradient: boolean;
  /** What every rank adds: a buffer's name. */
  readonly own: string;
  /** What the chain begins with, on its first rank; null: nothing. */
  readonly given: string | null;
  /** What the buffer for what reaches a rank is called. */
  readonly result: string;
  /** Messages carry this and the next number. */
  readonly tag: number;
  /** Called when the lane first waits for others. */
  readonly beforeWaiting: () => void;
  /** Launches what makes `own` and the range's factor, once. */
  readonly summarise: () => void;
}

export class Lane {
  readonly place: number;
  readonly length: number;
  readonly isFirst: boolean;
  readonly isLast: boolean;
  readonly own: string;
  readonly given: string | null;
  /** The buffer for what reaches this rank: on the first what is given, if anything. */
  result: string | null;
  /** What a range multiplies a state with: a matrix, a log decay; null: ranges just add. */
  readonly factor: TensorSpec | null;
  private readonly options: LaneOptions;

  constructor(options: LaneOptions) {
    const { order, rank, state, manifest } = options;
    this.options = options;
    this.place = order.indexOf(rank);
    this.length = order.length;
    this.isFirst = this.place === 0;
    this.isLast = this.place === this.length - 1;
    this.own = options.own;
    this.given = options.given;
    this.result = this.isFirst ? options.given : options.result;
    this.factor = factorOf(manifest, state);
  }

  /** Launches what makes this rank's `own` and `factor`: before anything waits for others. */
  summarise(): void {
    this.options.summarise();
  }

  /** A name for a buffer of this lane. */
  temporary(what: string): string {
    return `${what}_${this.options.result}`;
  }

  /** into = factor * state + added; without a state what is added is all there is. Gives the result's name. */
  fold(state: string | null, added: string, factor: string | null, into: string, part?: Part) {
    if (state === null) return added;
    const { writer, isGradient } = this.options;
    const { name, dense } = this.options.state;
    const isTransposed = isGradient && dense;
    const [d, from, to] = isTransposed ? ["d_", "d_final", "d_initial"] : ["", "initial", "final"];
    writer.launch(
      isTransposed ? `fold_bwd_${name}` : `fold_${name}`,
      {
        [`${from}_${name}`]: state,
        [`${d}summary_${name}`]: added,
        ...(this.factor && { [this.factor.name]: factor ?? this.factor.name }),
        [`${to}_${name}`]: into,
      },
      { part },
    );
    return into;
  }

  /** into = the factor of two ranges that lie side by side in the chain. */
  compose(before: string, after: string, into: string): void {
    const { writer, isGradient } = this.options;
    const { name } = this.options.state;
    // Matrices stay in the sequence's order; the chain of cotangents runs against it.
    const [earlier, later] = isGradient ? [after, before] : [before, after];
    writer.launch(`compose_${name}`, {
      [`earlier_${name}`]: earlier,
      [`later_${name}`]: later,
      [`both_${name}`]: into,
    });
  }

  /** A state from the rank at another place of the chain. */
  recv(into: string, place: number, part?: Part): void {
    const { writer, order, state, tag } = this.options;
    writer.recv(into, state.dims, order[place]!, tag, part);
    this.options.beforeWaiting();
  }

  send(buffer: string, place: number, part?: Part): void {
    const { writer, order, tag } = this.options;
    writer.send(buffer, order[place]!, tag, part);
  }

  recvFactor(into: string, place: number): void {
    const { writer, order, tag } = this.options;
    writer.recv(into, this.factor!.dims, order[place]!, tag + 1);
  }

  sendFactor(buffer: string, place: number): void {
    const { writer, order, tag } = this.options;
    writer.send(buffer, order[place]!, tag + 1);
  }

  /** The state of that name from every rank, by place; its own is not moved. */
  allgatherStates(buffer: string): readonly string[] {
    return this.allgather(buffer, this.own, this.options.state.dims, this.options.tag);
  }

  /** Every rank's factor, by place; gathered once for both directions. */
  allgatherFactors(): readonly string[] {
    const { name, dims } = this.factor!;
    return this.allgather(name, name, dims, this.options.tag + 1);
  }

  private allgather(buffer: string, label: string, dims: readonly number[], tag: number) {
    const { writer, order, rank } = this.options;
    const into = order.map((other) => (other === rank ? buffer : `gathered_${label}_${other}`));
    if (!into.every((name) => writer.has(name))) writer.allgather(buffer, into, order, dims, tag);
    this.options.beforeWaiting();
    return into;
  }
}

/** What a range multiplies a state with, as its `fold` takes it. */
export function factorOf(manifest: Manifest, { name }: StateSpec): TensorSpec | null {
  const fold = manifest.forms.find((form) => form.name === `fold_${name}`);
  const states = [`initial_${name}`, `summary_${name}`];
  return fold?.inputs.find((spec) => !states.includes(spec.name)) ?? null;
}
