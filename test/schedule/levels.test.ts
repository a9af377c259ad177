/** States that write what is read of others are exchanged after those: plans, costs and texts go by levels. */
import { expect, test } from "vitest";
import { scheduleCost } from "../../compiler/schedule/cost.ts";
import { exchangeNames, planOf } from "../../compiler/schedule/index.ts";
import { roundsText } from "../../compiler/schedule/print.ts";
import { type LaunchStep, type Step, chainEnds } from "../../runtime/plan.ts";
import { compileExample, compileText } from "../support/examples.ts";

const dims = { K: 16, V: 16 };
const { manifest, sharded } = compileExample("chained-delta", { dims, backward: true });

test("a state's level is one above those whose reads it writes", () => {
  const found = sharded.states.map(({ name, level, writesReadsOf }) => [
    name,
    level,
    writesReadsOf,
  ]);
  expect(found).toEqual([
    ["A", 0, []],
    ["S", 1, ["A"]],
    ["R", 2, ["S"]],
  ]);
  expect(roundsText(manifest)).toBe("3 rounds of exchanges: A, then S, then R");
  expect(roundsText(compileExample("several-states", { dims }).manifest)).toBeNull();
});

test("a query that reads another state waits for no round", () => {
  const text = `attention f(q: [T, K], k: [T, K], v: [T, K]) -> [T, K] {
    h = ((q @ k.T) * causal()) @ v
    return ((h @ k.T) * causal()) @ v
  }`;
  const { states } = compileText(text, { dims }).manifest;
  expect(states.map(({ level }) => level)).toEqual([0, 0]);
});

test.each(exchangeNames)("%s: a level is summarized when those below have arrived", (schedule) => {
  const { ranks } = planOf(manifest, schedule, 3, true);
  const taken = ranks.flatMap(({ rank, steps }) =>
    steps.flatMap((step) => (step.kind === "launch" ? statesTaken(step, steps, rank) : [])),
  );
  // Of three ranks all but the last, or for cotangents all but the first, summarize each level.
  expect(taken.length).toBeGreaterThanOrEqual(12);
  expect(taken.filter(({ isThere }) => !isThere)).toEqual([]);
});

/** The states and cotangents that a summary of another level takes, and whether they are there by then. */
function statesTaken(launch: LaunchStep, steps: readonly Step[], rank: number) {
  if (!/^(summary|transition|summary_bwd)(_level_\d+)?$/.test(launch.form)) return [];
  const formOf = (name: string) => manifest.forms.find((form) => form.name === name)!;
  const makes = (step: Step, buffer: string) =>
    (step.kind === "recv" && step.buffer === buffer) ||
    (step.kind === "allgather" && step.into.includes(buffer)) ||
    (step.kind === "launch" &&
      formOf(step.form).outputs.some(({ name }) => step.args[name] === buffer));
  const states = formOf(launch.form).inputs.filter(({ per }) => per === "state");
  return states.map(({ name }) => {
    const buffer = launch.args[name]!;
    const made = steps.findIndex((step) => makes(step, buffer));
    const [, side, S] = /^(initial|d_final)_(.*)$/.exec(name)!;
    const { begins, ends } = chainEnds(
      manifest.states.find((state) => state.name === S)!,
      { seq: 3, data: 1 },
      rank,
    );
    // What the chain begins with is there from the start.
    const isGiven = side === "initial" ? begins : ends;
    return { rank, form: launch.form, name, isThere: isGiven || (made >= 0 && made < launch.id) };
  });
}

test("every level pays its own latencies", () => {
  const link = { latencyS: 1, bytesPerS: Infinity };
  const sizes = { B: 1, T: 64, H: 1 };
  const waits = ["ring", "allgather", "allscan", "tree"].map(
    (schedule) => scheduleCost(manifest, schedule, 4, link, sizes)!.latencies,
  );
  expect(waits).toEqual([9, 3, 9, 6]);
});
