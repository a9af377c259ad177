/** A plan as an SVG timeline: a lane for each rank's computing and transfers, arrows for messages. */
import { xmlText } from "../support/text.ts";
import type { Plan, Step } from "../../runtime/plan.ts";
import { messagesOf } from "../../runtime/messages.ts";

/** When a step starts and ends, in any unit. */
export interface Timed {
  readonly rank: number;
  readonly step: number;
  readonly start: number;
  readonly end: number;
}

const colors: Readonly<Record<Step["kind"], string>> = {
  alloc: "#cbd5e1",
  launch: "#2563eb",
  send: "#ea580c",
  recv: "#f59e0b",
  allgather: "#ea580c",
  allreduce: "#ea580c",
  reshard: "#c026d3",
  free: "#cbd5e1",
};
const [left, top, lane, width] = [90, 34, 22, 860];

const unitCosts: Readonly<Record<Step["kind"], number>> = {
  alloc: 0,
  launch: 4,
  send: 1,
  recv: 0.5,
  allgather: 1.5,
  allreduce: 1.5,
  reshard: 2,
  free: 0,
};

/** Unit steps: every launch takes 4, every message 1, as early as its dependencies allow. */
export function unitTimes(plan: Plan): Timed[] {
  const times: Timed[] = [];
  const ended = plan.ranks.map(() => new Map<number, number>());
  const { sent, taken } = messagesOf(plan);
  const arrived = new Map<number, number>();
  const free = plan.ranks.map(() => ({ compute: 0, transfer: 0 }));
  const posted = new Set<Step>();
  for (let moved = true; moved;) {
    moved = false;
    for (const { rank, steps } of plan.ranks) {
      for (const step of steps) {
        const mine = ended[rank]!;
        const blocked = steps.some(
          (other) => other.stream === step.stream && other.id < step.id && !mine.has(other.id),
        );
        if (mine.has(step.id) || blocked || step.after.some((id) => !mine.has(id))) continue;
        const ready = Math.max(free[rank]![step.stream], ...step.after.map((id) => mine.get(id)!));
        if (!posted.has(step)) {
          for (const message of sent[rank]![step.id]!) arrived.set(message, ready + 1);
          posted.add(step);
          moved = true;
        }
        const waits = taken[rank]![step.id]!;
        if (!waits.every((message) => arrived.has(message))) continue;
        const messages = waits.map((message) => arrived.get(message)!);
        // What is waited for shows as its end only.
        const isRecv = step.kind === "recv";
        const start = isRecv ? Math.max(ready, ...messages) : ready;
        const end = Math.max(start + unitCosts[step.kind], ...messages);
        mine.set(step.id, end);
        free[rank]![step.stream] = end;
        times.push({ rank, step: step.id, start, end });
        moved = true;
      }
    }
  }
  return times;
}

export function planToSvg(plan: Plan, times: readonly Timed[] = unitTimes(plan)): string {
  const last = Math.max(1e-9, ...times.map((time) => time.end));
  const x = (t: number) => left + (t / last) * width;
  const y = (rank: number, stream: Step["stream"]) =>
    top + rank * lane * 2.6 + (stream === "transfer" ? lane : 0);
  const height = top + plan.ranks.length * lane * 2.6 + 20;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + width + 20} ${Math.ceil(height)}" font-family="sans-serif" font-size="11">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="10" y="18" font-size="13">${xmlText(plan.name)}: compute above, transfer below</text>`,
  ];
  const stepOf = (time: Timed) => plan.ranks[time.rank]!.steps[time.step]!;
  for (const { rank } of plan.ranks) {
    parts.push(`<text x="10" y="${y(rank, "compute") + 14}">device ${rank}</text>`);
  }
  for (const time of times) {
    const step = stepOf(time);
    if (time.end <= time.start) continue;
    const [from, to] = [x(time.start), x(time.end)];
    const label = step.kind === "launch" ? step.form : step.kind;
    const title = `<title>${xmlText(`${label} ${"buffer" in step ? step.buffer : ""}`.trim())}</title>`;
    const box = `x="${from.toFixed(1)}" y="${y(time.rank, step.stream)}" width="${Math.max(1, to - from).toFixed(1)}" height="${lane - 4}"`;
    parts.push(`<rect ${box} rx="2" fill="${colors[step.kind]}">${title}</rect>`);
    if (to - from > 6.5 * label.length) {
      const at = `x="${(from + 4).toFixed(1)}" y="${y(time.rank, step.stream) + 13}"`;
      parts.push(`<text ${at} fill="white">${xmlText(label)}</text>`);
    }
  }
  parts.push(...arrows(plan, times, x, y), "</svg>");
  return `${parts.join("\n")}\n`;
}

function arrows(
  plan: Plan,
  times: readonly Timed[],
  x: (t: number) => number,
  y: (rank: number, stream: Step["stream"]) => number,
): string[] {
  const lines: string[] = [];
  const find = (rank: number, id: number) => times.find((t) => t.rank === rank && t.step === id);
  for (const { rank, steps } of plan.ranks) {
    for (const step of steps) {
      if (step.kind !== "send") continue;
      const back = plan.ranks[step.to]!.steps.find(
        (other) => other.kind === "recv" && other.from === rank && other.tag === step.tag,
      );
      const [from, to] = [find(rank, step.id), back && find(step.to, back.id)];
      if (!from || !to) continue;
      const points = `x1="${x(from.end).toFixed(1)}" y1="${y(rank, "transfer") + 9}" x2="${x(to.end).toFixed(1)}" y2="${y(step.to, "transfer") + 9}"`;
      lines.push(`<line ${points} stroke="#ea580c" stroke-width="1.5"/>`);
    }
  }
  return lines;
}
