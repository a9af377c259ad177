/** Plans for people: as text, and drawn over time. */
import type { Layout, Manifest, Part, Plan, Step } from "../../runtime/plan.ts";
import { levelsOf } from "../../runtime/plan.ts";
import { TextWriter } from "../support/text.ts";

/** One block for each rank, one line for each step. */
export function printPlan(plan: Plan): string {
  const writer = new TextWriter();
  for (const { rank, steps } of plan.ranks) {
    writer.line(`device ${rank} of ${plan.ranks.length}`);
    writer.indent(() => {
      for (const step of steps) {
        const after = step.after.length > 0 ? `  after ${step.after.join(" ")}` : "";
        writer.line(`${String(step.id).padStart(2)}  ${stepText(step)}${after}`);
      }
    });
  }
  return writer.toString();
}

/** "2 rounds of exchanges: S, then R"; null where one round is enough. */
export function roundsText({ states }: Manifest): string | null {
  const levels = levelsOf(states).map((own) => own.map(({ name }) => name).join(", "));
  if (levels.length < 2) return null;
  return `${levels.length} rounds of exchanges: ${levels.join(", then ")}`;
}

export function stepText(step: Step): string {
  switch (step.kind) {
    case "alloc": {
      const { per, dtype, dims } = step.spec;
      return `alloc  ${step.buffer}: ${per} ${dtype}[${dims.join(", ")}]${overText(step.layout)}`;
    }
    case "launch": {
      const renamed = Object.entries(step.args).filter(([name, buffer]) => name !== buffer);
      const text = renamed.map(([name, buffer]) => `${name} = ${buffer}`).join(", ");
      return `launch ${step.form}${partText(step.part)}${overText(step.layout)}${text ? ` (${text})` : ""}`;
    }
    case "send":
      return `send   ${step.buffer}${partText(step.part)} to ${step.to} tag ${step.tag}`;
    case "recv":
      return `recv   ${step.buffer}${partText(step.part)} from ${step.from} tag ${step.tag}`;
    case "allgather":
      return `allgather ${step.buffer} of ${step.group.join(" ")} tag ${step.tag}`;
    case "allreduce":
      return `allreduce ${step.buffer} of ${step.group.join(" ")} tag ${step.tag}`;
    case "reshard": {
      const from = step.buffer === null ? "nothing" : `${step.buffer} (${step.from})`;
      const to = step.into === null ? "nothing" : `${step.into} (${step.to})`;
      return `reshard ${from} to ${to} tag ${step.tag}`;
    }
    case "free":
      return `free   ${step.buffer}`;
  }
}

function partText(part: Part | undefined): string {
  return part === undefined ? "" : ` block ${part.index + 1} of ${part.of}`;
}

/** A layout that is not the rank's own tokens. */
function overText(layout: Layout | undefined): string {
  if (layout === undefined) return "";
  return typeof layout === "number" ? ` over device ${layout}'s tokens` : ` over ${layout}`;
}
