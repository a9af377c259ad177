/**
 * Which plans a transport can carry that knows no tags and in which a send may wait for its receive: NCCL. Between two
 * ranks the sends of the one must be the receives of the other in the same order, and no rank may wait for another
 * that waits for it.
 */
import { type Plan, type Step, streams } from "./plan.ts";

/** What a rank's transfer stream is waiting to exchange: messages as `from>to#tag`. */
interface Waiting {
  readonly sends: Set<string>;
  readonly receives: Set<string>;
}

/** What is wrong with the plan for such a transport, or null. */
export function orderProblem(plan: Plan): string | null {
  const ranks = plan.ranks.map(({ rank, steps }) => new Walk(rank, steps));
  for (;;) {
    let isMoving = false;
    for (const rank of ranks) if (rank.advance()) isMoving = true;
    for (const a of ranks) {
      for (const b of ranks) {
        const problem = a === b ? null : meet(a, b);
        if (problem === "met") isMoving = true;
        else if (problem !== null) return `${plan.name}: ${problem}`;
      }
    }
    if (isMoving) continue;
    const stuck = ranks.find((rank) => !rank.isDone);
    return stuck ? `${plan.name}: rank ${stuck.rank} never gets past ${stuck.where}` : null;
  }
}

/** The next send of one rank to another and the receive that is next there. */
function meet(a: Walk, b: Walk): "met" | string | null {
  const own = `${a.rank}>${b.rank}#`;
  const sent = [...(a.waiting?.sends ?? [])].find((message) => message.startsWith(own));
  const taken = [...(b.waiting?.receives ?? [])].find((message) => message.startsWith(own));
  if (sent === undefined || taken === undefined) return null;
  if (sent !== taken) return `rank ${a.rank} sends ${sent} where rank ${b.rank} receives ${taken}`;
  a.waiting!.sends.delete(sent);
  b.waiting!.receives.delete(taken);
  return "met";
}

/** One rank's steps: what is done, and what its transfer stream waits for. */
class Walk {
  readonly rank: number;
  waiting: Waiting | null = null;
  private readonly steps: readonly Step[];
  private readonly done = new Set<number>();
  private readonly next = { compute: 0, transfer: 0 };

  constructor(rank: number, steps: readonly Step[]) {
    this.rank = rank;
    this.steps = steps;
  }

  get isDone(): boolean {
    return this.done.size === this.steps.length;
  }

  get where(): string {
    const step = this.steps.find(({ id }) => !this.done.has(id))!;
    return `step ${step.id} (${step.kind})`;
  }

  /** Does what needs no other rank; has anything been done? */
  advance(): boolean {
    const before = this.done.size;
    const { waiting } = this;
    if (waiting && waiting.sends.size + waiting.receives.size === 0) {
      this.waiting = null;
      this.done.add(this.ofStream("transfer")!.id);
    }
    for (const stream of streams) {
      // Computing goes on while the other stream waits.
      if (stream === "transfer" && this.waiting) break;
      for (let step = this.ofStream(stream); step; step = this.ofStream(stream)) {
        if (!step.after.every((id) => this.done.has(id))) break;
        const messages = messagesOf(step, this.rank);
        if (messages.sends.size + messages.receives.size > 0) {
          this.waiting = messages;
          return true;
        }
        this.done.add(step.id);
      }
    }
    return this.done.size > before;
  }

  /** The first step of the stream that is not done. */
  private ofStream(stream: Step["stream"]): Step | undefined {
    const { steps, next, done } = this;
    while (next[stream] < steps.length) {
      const step = steps[next[stream]]!;
      if (step.stream === stream && !done.has(step.id)) return step;
      next[stream] += 1;
    }
    return undefined;
  }
}

/** A reshard goes through the host, by tags. */
function messagesOf(step: Step, rank: number): Waiting {
  const [sends, receives] = [new Set<string>(), new Set<string>()];
  if (step.kind === "send") sends.add(`${rank}>${step.to}#${step.tag}`);
  if (step.kind === "recv") receives.add(`${step.from}>${rank}#${step.tag}`);
  if (step.kind === "allgather" || step.kind === "allreduce") {
    for (const other of step.group) {
      if (other === rank) continue;
      sends.add(`${rank}>${other}#${step.tag}`);
      receives.add(`${other}>${rank}#${step.tag}`);
    }
  }
  return { sends, receives };
}
