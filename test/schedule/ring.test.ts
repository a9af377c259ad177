/** Plans are complete and matched; anything broken in one is found. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Manifest, Plan, Step } from "../../runtime/plan.ts";
import { printPlan } from "../../compiler/schedule/print.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import { planToSvg, unitTimes } from "../../compiler/schedule/svg.ts";
import { planProblem } from "../../runtime/verify-plan.ts";
import { compileExample, exampleNames } from "../support/examples.ts";

const ringPlan = (manifest: Manifest, ranks: number) => planOf(manifest, "ring", ranks);
const manifests = new Map(exampleNames.map((name) => [name, compileExample(name).manifest]));

describe.each(exampleNames)("%s", (name) => {
  const manifest = manifests.get(name)!;
  test("the ring is sound for 1 to 16 ranks", () => {
    for (let ranks = 1; ranks <= 16; ranks++) {
      expect(planProblem(ringPlan(manifest, ranks), manifest)).toBeNull();
    }
  });

  test("a plan is plain data", () => {
    const plan = ringPlan(manifest, 3);
    expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
  });
});

test("the summary is computed and sent on before the output is", () => {
  const [, middle] = ringPlan(manifests.get("retention")!, 3).ranks;
  const at = (want: (step: Step) => boolean) => middle!.steps.findIndex(want);
  const launch = (form: string) => at((step) => step.kind === "launch" && step.form === form);
  expect(launch("summary")).toBeLessThan(at((step) => step.kind === "recv"));
  expect(at((step) => step.kind === "send")).toBeLessThan(launch("forward"));
  const summary = middle!.steps[launch("summary")]!;
  const recv = at((step) => step.kind === "recv");
  expect(summary.after.includes(recv)).toBe(false);
  // Nothing that computes before the output waits for the network to take the state.
  const send = at((step) => step.kind === "send");
  const before = middle!.steps.slice(0, launch("forward") + 1);
  const waiting = before.filter(
    ({ stream, after }) => stream === "compute" && after.includes(send),
  );
  expect(waiting).toEqual([]);
});

test("every rank but the last sends one state", () => {
  const plan = ringPlan(manifests.get("retention")!, 4);
  const sends = plan.ranks.map(({ steps }) => steps.filter(({ kind }) => kind === "send").length);
  expect(sends).toEqual([1, 1, 1, 0]);
});

/** The plan with rank `r`'s steps changed; ids and dependencies follow. */
function changed(plan: Plan, r: number, change: (steps: Step[]) => Step[]): Plan {
  const ranks = plan.ranks.map((rank) => {
    if (rank.rank !== r) return rank;
    const steps = change([...rank.steps]);
    const ids = new Map(steps.map((step, i) => [step.id, i]));
    return {
      ...rank,
      steps: steps.map((step, i) => ({
        ...step,
        id: i,
        after: step.after.flatMap((id) => ids.get(id) ?? []).filter((id) => id < i),
      })),
    };
  });
  return { ...plan, ranks };
}

describe("a broken plan is found", () => {
  const manifest = manifests.get("retention")!;
  const plan = ringPlan(manifest, 4);

  test("any step left out", () => {
    fc.assert(
      fc.property(fc.nat(3), fc.nat(40), (r, i) => {
        const { steps } = plan.ranks[r]!;
        const gone = changed(plan, r, (all) => all.filter((_, at) => at !== i % steps.length));
        expect(planProblem(gone, manifest)).not.toBeNull();
      }),
    );
  });

  test("a message to nobody, with another tag, or to oneself", () => {
    const edit = (f: (step: Step) => Step) =>
      planProblem(
        changed(plan, 1, (steps) => steps.map(f)),
        manifest,
      );
    expect(edit((s) => (s.kind === "send" ? { ...s, to: 3 } : s))).toMatch(/sent|received/);
    expect(edit((s) => (s.kind === "send" ? { ...s, tag: 9 } : s))).toMatch(/tag/);
    expect(edit((s) => (s.kind === "send" ? { ...s, to: 1 } : s))).toMatch(/names rank 1/);
    expect(edit((s) => (s.kind === "recv" ? { ...s, from: 7 } : s))).toMatch(/names rank 7/);
  });

  test("two ranks that wait for each other", () => {
    const waiting = (rank: number, peer: number): Plan["ranks"][number] => {
      const own = plan.ranks[1]!.steps.filter(({ kind }) => kind === "alloc").slice(0, 1);
      const spec = { ...(own[0] as Step & { kind: "alloc" }).spec, per: "state" as const };
      const base = { stream: "transfer" as const };
      return {
        rank,
        steps: [
          { kind: "alloc", id: 0, after: [], stream: "compute", buffer: "x", spec, zero: false },
          { kind: "recv", id: 1, after: [0], ...base, buffer: "x", from: peer, tag: 0 },
          { kind: "send", id: 2, after: [1], ...base, buffer: "x", to: peer, tag: 0 },
          { kind: "free", id: 3, after: [2], stream: "compute", buffer: "x" },
        ],
      };
    };
    const empty = { ...manifest, outputs: [], states: [] };
    const circle = {
      name: "circle",
      schedule: "ring",
      mesh: { seq: 2, data: 1 },
      ranks: [waiting(0, 1), waiting(1, 0)],
    };
    expect(planProblem(circle, empty)).toMatch(/waits forever at step 1 \(recv\)/);
  });
});

test("a plan prints one line a step and draws one bar a launch", () => {
  const plan = ringPlan(manifests.get("retention")!, 2);
  const text = printPlan(plan);
  expect(text).toMatch(/device 0 of 2\n {2} 0 {2}alloc/);
  expect(text).toMatch(/send {3}passed_initial_S to 1 tag 0/);
  expect(text).toMatch(/recv {3}initial_S from 0 tag 0/);
  const svg = planToSvg(plan);
  const launches = plan.ranks.flatMap(({ steps }) => steps.filter(({ kind }) => kind === "launch"));
  expect(svg.match(/fill="#2563eb"/g)?.length).toBe(launches.length);
  expect(unitTimes(plan).length).toBe(plan.ranks.reduce((sum, { steps }) => sum + steps.length, 0));
});
