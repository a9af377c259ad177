/** The peers' schedules: the bytes that their papers say. That their numbers are right: gradients.test.ts. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { type ScheduleName, planOf } from "../../compiler/schedule/index.ts";
import { planProblem } from "../../runtime/verify-plan.ts";
import type { Device, LaunchSizes } from "../../runtime/device.ts";
import { tensorBytes } from "../../runtime/layout.ts";
import type { Plan, TensorSpec } from "../../runtime/plan.ts";
import { runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { findDevice } from "../support/devices.ts";
import { compare, compileExample, randomInputs, sizesOf } from "../support/examples.ts";

const { available, why } = findDevice("cpu");

async function runOn(
  compiled: Compiled,
  device: Device,
  schedule: ScheduleName,
  ranks: number,
  sizes: LaunchSizes,
  backward = false,
) {
  const { manifest } = compiled;
  const plan = planOf(manifest, schedule, ranks, backward);
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const devices = Array.from({ length: ranks }, () => device);
  const transports = inProcessTransports(ranks);
  const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
  return { plan, inputs, result };
}

describe.skipIf(!available)(`bytes of an attention with q, k and v${why}`, () => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    const targets = await targetsFor(["cpu"]);
    compiled = compileExample("linear-attention", { targets, backward: true });
    device = await openDevice("cpu", compiled, { threads: 1, poison: true });
  });
  afterAll(() => device?.close());

  test.each([
    [2, 64, 2],
    [4, 64, 4],
    [4, 128, 8],
    [8, 256, 8],
  ])("%d ranks, %d tokens, %d heads", async (P, T, H) => {
    const B = 2;
    const sizes = sizesOf({ T, B, H });
    const sent = async (schedule: ScheduleName) =>
      (await runOn(compiled, device, schedule, P, sizes)).result.bytesSent;
    // In the papers' letters: N tokens, d the width of all heads; numbers of 4 bytes. K = V = d / H.
    const [N, d] = [T, H * 64];
    const state = (B * d * d * 4) / H;
    const ranks = Array.from({ length: P }, (_, rank) => rank);
    const others = (P - 1) / P;

    // LASP: B d^2 / h.
    expect(await sent("ring")).toEqual(ranks.map((r) => (r < P - 1 ? state : 0)));
    // Ulysses: 4 B N d / P, of which a rank keeps its own P-th; and the caller's state, in from the first
    // rank, out to the last.
    const states = (r: number) => (r === 0 ? state * others : 0) + (r < P - 1 ? state / P : 0);
    const allToAll = ((4 * B * N * d * 4) / P) * others;
    expect(await sent("ulysses")).toEqual(ranks.map((r) => allToAll + states(r)));
    // Megatron gathers q, k and v of B N d each, where a whole layer would gather its input of B N d and
    // scatter as much; the outputs go back as in Ulysses.
    const gather = 3 * B * N * d * 4 * others;
    const back = ((B * N * d * 4) / P) * others;
    expect(await sent("megatron")).toEqual(ranks.map((r) => gather + back + states(r)));
    // Ring Attention: 2 B N d / P for each of P - 1 turns, which the last but one makes all of.
    const part = (2 * B * N * d * 4) / P;
    expect(await sent("ring-attention")).toEqual(
      ranks.map((r) => (r < P - 1 ? (r + 1) * part + state : 0)),
    );
  });

  test.each([
    [2, 64, 2],
    [4, 128, 8],
  ])("with gradients: %d ranks, %d tokens, %d heads", async (P, T, H) => {
    const B = 2;
    const sizes = sizesOf({ T, B, H });
    const [N, d] = [T, H * 64];
    const state = (B * d * d * 4) / H;
    const ranks = Array.from({ length: P }, (_, rank) => rank);
    const others = (P - 1) / P;
    const tokens = (B * N * d * 4) / P;
    const expectSent = async (schedule: ScheduleName, bytes: (r: number) => number) => {
      const { result } = await runOn(compiled, device, schedule, P, sizes, true);
      expect(result.bytesSent, schedule).toEqual(ranks.map(bytes));
    };
    const [up, down] = [(r: number) => r < P - 1, (r: number) => r > 0];

    // LASP: a state up, its cotangent down.
    await expectSent("ring", (r) => (up(r) ? state : 0) + (down(r) ? state : 0));
    // The states of the forward, whose gradients go the other ways; its last state's comes from the last rank.
    const states = (r: number) =>
      (r === 0 ? state * others : 0) +
      (up(r) ? state / P : 0) +
      (r === P - 1 ? state * others : 0) +
      (down(r) ? state / P : 0);
    // q, k and v in, o out; d_o in, and the gradients of the three out.
    await expectSent("ulysses", (r) => 8 * tokens * others + states(r));
    await expectSent(
      "megatron",
      (r) => (3 + 1) * tokens * (P - 1) + (1 + 3) * tokens * others + states(r),
    );
    // k and v up, each to those that see them; q and d_o down, likewise.
    const turn = (parts: number) => 2 * parts * tokens + state;
    await expectSent(
      "ring-attention",
      (r) => (up(r) ? turn(r + 1) : 0) + (down(r) ? turn(P - r) : 0),
    );
  });

  test("heads that ranks cannot share out evenly are an error that says so", async () => {
    for (const schedule of ["ulysses", "megatron"] as const) {
      const run = runOn(compiled, device, schedule, 4, sizesOf({ T: 16, H: 6 }));
      await expect(run).rejects.toThrow(
        "q has 6 heads, which 4 devices cannot share out evenly: this schedule computes whole heads",
      );
    }
    const one = runOn(compiled, device, "ulysses", 2, sizesOf({ T: 16, H: 1 }));
    await expect(one).rejects.toThrow("q has 1 head, which 2 devices");
  });

  test("grouped heads are shared out with their group", async () => {
    const sizes = sizesOf({ T: 33, H: 8, heads: { k: 4, v: 4 } });
    const { result, inputs } = await runOn(compiled, device, "ulysses", 4, sizes);
    expect((await compare(compiled, inputs, sizes, result)).ok).toBe(true);
    const few = runOn(compiled, device, "ulysses", 8, sizes);
    await expect(few).rejects.toThrow("k has 4 heads, which 8 devices");
  });
});

describe.skipIf(!available)(`bytes of Ring Attention where states decay${why}`, () => {
  test("gates travel with the tokens, and back a range's decay with its queries", async () => {
    const targets = await targetsFor(["cpu"]);
    const compiled = compileExample("simple-gla", { targets, backward: true });
    const device = await openDevice("cpu", compiled, { threads: 1, poison: true });
    const [B, N, H, P] = [2, 40, 3, 4];
    const run = await runOn(compiled, device, "ring-attention", P, sizesOf({ T: N, B, H }), true);
    await device.close();
    const [state, gates, decay] = [B * H * 64 * 64 * 4, (B * N * H * 4) / P, B * H * 4];
    const pair = (2 * B * N * H * 64 * 4) / P;
    expect(run.result.bytesSent).toEqual(
      [0, 1, 2, 3].map((r) => {
        const up = r < P - 1 ? (r + 1) * (pair + gates) + state : 0;
        const down = r > 0 ? (P - r) * (pair + gates + decay) + state : 0;
        return up + down;
      }),
    );
    // As many messages: three or four of each range, and one state.
    const messages = [0, 1, 2, 3].map(
      (r) => (r < P - 1 ? (r + 1) * 3 + 1 : 0) + (r > 0 ? (P - r) * 4 + 1 : 0),
    );
    expect(run.result.messagesSent).toEqual(messages);
  });
});

describe("a broken move is found", () => {
  const { manifest } = compileExample("retention");
  const plan = planOf(manifest, "ulysses", 3);
  const edit = (rank: number, change: (plan: Plan["ranks"][number]["steps"]) => object) =>
    planProblem(
      {
        ...plan,
        ranks: plan.ranks.map((one) =>
          one.rank === rank ? { ...one, steps: change(one.steps) as typeof one.steps } : one,
        ),
      },
      manifest,
    );
  const first = plan.ranks[1]!.steps.findIndex(({ kind }) => kind === "reshard");

  test("with another layout, tag, or buffer", () => {
    const changed = (fields: object) =>
      edit(1, (steps) => steps.map((step, i) => (i === first ? { ...step, ...fields } : step)));
    expect(changed({})).toBeNull();
    expect(changed({ tag: 99 })).toMatch(/rank 1 moves q from tokens to heads tag 99, rank 0/);
    expect(changed({ from: "heads" })).toMatch(/rank 1 moves q from heads/);
    expect(changed({ to: "whole" })).toMatch(/moves heads_q to whole/);
    expect(changed({ buffer: "nothing" })).toMatch(/moves nothing, which nothing wrote/);
    expect(changed({ into: "nowhere" })).toMatch(/nowhere, which is not there/);
  });

  test("a launch over another layout than its buffers'", () => {
    const wrong = edit(2, (steps) =>
      steps.map((step) => (step.kind === "launch" ? { ...step, layout: "whole" } : step)),
    );
    expect(wrong).toMatch(/gives forward q in layout heads, not whole/);
  });
});

test("heads are counted by the tensor, whatever its buffer is called", () => {
  const { manifest } = compileExample("linear-attention");
  const specs = planOf(manifest, "ulysses", 2).ranks[0]!.steps.flatMap((step): TensorSpec[] =>
    step.kind === "alloc" && step.buffer === "heads_k" ? [step.spec] : [],
  );
  const sizes = { B: 1, T: 4, H: 4, heads: { k: 2 } };
  expect(specs.map((spec) => tensorBytes(spec, sizes))).toEqual([4 * 2 * 64 * 4]);
});
