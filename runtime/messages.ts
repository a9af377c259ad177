/** Who sends what to whom: every message of a plan, from the step that sends it to the one that takes it. */
import type { Plan, Step } from "./plan.ts";

export interface Message {
  readonly from: number;
  readonly to: number;
  readonly tag: number;
  /** The step of `from` that sends it; null: none does. */
  readonly sender: Step | null;
  /** The step of `to` that takes it; null: none does. */
  readonly receiver: Step | null;
}

/** Messages by their numbers, and by rank and step the numbers of those that it sends, in this order, and takes. */
export interface Messages {
  readonly all: readonly Message[];
  readonly sent: readonly (readonly (readonly number[])[])[];
  readonly taken: readonly (readonly (readonly number[])[])[];
}

const known = new WeakMap<Plan, Messages>();

/** Between two ranks, messages of one tag are taken in the order in which they are sent. */
export function messagesOf(plan: Plan): Messages {
  const found = known.get(plan) ?? number(plan);
  known.set(plan, found);
  return found;
}

function number(plan: Plan): Messages {
  const ranks = plan.ranks.length;
  const all: { -readonly [key in keyof Message]: Message[key] }[] = [];
  /** Numbers of what was sent from one rank to another with a tag, and how many of them are taken. */
  const channels = new Map<number, Map<number, { sent: number[]; taken: number }>>();
  const channelOf = (from: number, to: number, tag: number) => {
    const pair = from * ranks + to;
    const tags = channels.get(pair) ?? new Map<number, { sent: number[]; taken: number }>();
    channels.set(pair, tags);
    const channel = tags.get(tag) ?? { sent: [], taken: 0 };
    tags.set(tag, channel);
    return channel;
  };
  const sent = plan.ranks.map(({ rank: from, steps }) =>
    steps.map((sender) =>
      receiversOf(sender, from, ranks).map((to) => {
        const tag = tagOf(sender);
        const id = all.push({ from, to, tag, sender, receiver: null }) - 1;
        channelOf(from, to, tag).sent.push(id);
        return id;
      }),
    ),
  );
  const taken = plan.ranks.map(({ rank: to, steps }) =>
    steps.map((receiver) =>
      sendersTo(receiver, to, ranks).map((from) => {
        const tag = tagOf(receiver);
        const channel = channelOf(from, to, tag);
        const id = channel.sent[channel.taken++];
        if (id === undefined) return all.push({ from, to, tag, sender: null, receiver }) - 1;
        all[id]!.receiver = receiver;
        return id;
      }),
    ),
  );
  return { all, sent, taken };
}

const nobody: readonly number[] = [];

/** Ranks that a step sends to, in its order. */
export function receiversOf(step: Step, rank: number, ranks: number): readonly number[] {
  return step.kind === "send" ? [step.to] : othersOf(step, rank, ranks);
}

/** Ranks that a step waits for. */
export function sendersTo(step: Step, rank: number, ranks: number): readonly number[] {
  return step.kind === "recv" ? [step.from] : othersOf(step, rank, ranks);
}

/**
 * The others of a collective, which is a message to each of them and one from each. It begins with the rank behind
 * its own, so that no two send to one rank at a time.
 */
function othersOf(step: Step, rank: number, ranks: number): readonly number[] {
  switch (step.kind) {
    case "allgather":
    case "allreduce":
      return behind(step.group, rank);
    case "reshard":
      // Every rank is one of its group, though it may have nothing to send to some.
      return behind(
        Array.from({ length: ranks }, (_, i) => i),
        rank,
      );
    default:
      return nobody;
  }
}

function behind(group: readonly number[], rank: number): readonly number[] {
  const place = group.indexOf(rank);
  return [...group.slice(place + 1), ...group.slice(0, place)];
}

function tagOf(step: Step): number {
  if ("tag" in step) return step.tag;
  throw new Error(`a ${step.kind} sends no messages`);
}
