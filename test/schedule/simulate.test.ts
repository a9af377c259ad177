/** The simulator runs plans as the formulas say, and what it counts is what was sent. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { blocks } from "../../compiler/schedule/allscan.ts";
import { cheapest } from "../../compiler/schedule/auto.ts";
import { launchSeconds, scheduleCost } from "../../compiler/schedule/cost.ts";
import { deviceSpeeds, fabrics } from "../../compiler/schedule/fabrics.ts";
import { flopsOf } from "../../compiler/schedule/flops.ts";
import { planOf, scheduleNames } from "../../compiler/schedule/index.ts";
import { simulate } from "../../compiler/schedule/simulate.ts";
import { tensorBytes } from "../../runtime/layout.ts";
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { compileExample } from "../support/examples.ts";

const speed = deviceSpeeds["h200"]!;
const machine = { fabric: fabrics.ethernet, speed };
const manifest = compileExample("retention", { backward: true }).manifest;
const sizes = { B: 1, T: 4096, H: 4 };
const state = 4 * 4 * 64 * 64;
const link = fabrics.ethernet.between;

function launch(of: Manifest, form: string, T: number): number {
  const spec = of.forms.find(({ name }) => name === form)!;
  return launchSeconds(spec, of, { ...sizes, T }, speed);
}

test("two ranks of a ring take a summary, a fold, a message and the output", () => {
  const { seconds, critical } = simulate(planOf(manifest, "ring", 2), manifest, sizes, machine);
  const message = link.latencyS + state / link.bytesPerS;
  const parts = ["summary", "fold_S", "forward"].map((form) => launch(manifest, form, 2048));
  expect(seconds).toBeCloseTo(parts.reduce((a, b) => a + b) + message, 12);
  expect(critical.at(-1)!.end).toBe(seconds);
  critical.slice(1).forEach(({ start }, i) => expect(start).toBe(critical[i]!.end));
});

test("on one device there is the launch alone", () => {
  const { seconds, bytesSent } = simulate(planOf(manifest, "ring", 1), manifest, sizes, machine);
  expect(seconds).toBe(launch(manifest, "forward", 4096));
  expect(bytesSent).toEqual([0]);
});

test("messages to one rank share its port", () => {
  const plan = planOf(manifest, "allgather", 9);
  // So long that nobody waits for a launch.
  const far = { latencyS: 1, bytesPerS: 1e3 };
  const fabric = { ...fabrics.ethernet, between: far };
  const { seconds } = simulate(plan, manifest, sizes, { fabric, speed });
  expect(seconds).toBeGreaterThan(1 + (8 * state) / 1e3);
  expect(seconds).toBeLessThan(1.01 + (8 * (state + 16) + 8 * 16 * 16) / 1e3);
});

test("links between nodes are slower than those within", () => {
  const plan = planOf(manifest, "ring", 16);
  const on = (fabric: (typeof fabrics)["nvlink"] | (typeof fabrics)["infiniband"]) =>
    simulate(plan, manifest, sizes, { fabric, speed }).seconds;
  const [near, far] = [fabrics.infiniband.within, fabrics.infiniband.between];
  const slower = far.latencyS + state / far.bytesPerS - near.latencyS - state / near.bytesPerS;
  expect(on(fabrics.infiniband) - on(fabrics.nvlink)).toBeCloseTo(slower, 12);
});

test("memory counts what is there at once", () => {
  const { peakBytes } = simulate(planOf(manifest, "ring", 2), manifest, sizes, machine);
  const at = { ...sizes, T: 2048 };
  const inputs = manifest.inputs.reduce((sum, spec) => sum + tensorBytes(spec, at), 0);
  const output = tensorBytes(manifest.outputs[0]!, at);
  // initial_S and final_S beside the inputs and the output; nothing else lives then.
  expect(peakBytes[1]).toBe(inputs + output + 2 * state);
});

describe.each(["ring", "allgather"] as const)("%s", (schedule) => {
  test.each([2, 3, 5, 16])("the closed form counts what %d ranks receive", (ranks) => {
    const { bytesReceived } = simulate(planOf(manifest, schedule, ranks), manifest, sizes, machine);
    const cost = scheduleCost(manifest, schedule, ranks, link, sizes)!;
    expect(Math.max(...bytesReceived)).toBe(cost.bytesReceived);
  });

  test("costs no more with a longer sequence than its launches do", () => {
    const plan = planOf(manifest, schedule, 4);
    const at = (T: number) => simulate(plan, manifest, { ...sizes, T }, machine);
    expect(at(1 << 20).bytesSent).toEqual(at(1 << 11).bytesSent);
    expect(at(1 << 20).seconds).toBeGreaterThan(at(1 << 11).seconds);
  });
});

test("what the table of facts says, at latency 1 and a state a second", () => {
  const unit = { latencyS: 1, bytesPerS: state };
  const plain = compileExample("linear-attention").manifest;
  const of = (schedule: string) => scheduleCost(plain, schedule, 8, unit, sizes)!;
  expect(of("ring")).toEqual({ seconds: 14, bytesReceived: state, latencies: 7 });
  expect(of("allgather")).toEqual({ seconds: 8, bytesReceived: 7 * state, latencies: 1 });
  expect(of("tree")).toEqual({ seconds: 6, bytesReceived: 3 * state, latencies: 3 });
  expect(of("allscan").seconds).toBe(1 + 7 * (1 + 1 / blocks));
  expect(scheduleCost(plain, "nothing", 8, unit, sizes)).toBeNull();
});

test("auto takes the chain between few, a tree between many, blocks where states are long", () => {
  const on = (ranks: number, latencyS: number, bytesPerS: number) =>
    cheapest(manifest, ranks, { latencyS, bytesPerS }, sizes);
  expect(on(2, 1e-5, 1e10)).toBe("ring");
  expect(on(4, 1, 1e10)).toBe("allgather");
  expect(on(64, 1e-5, 1e10)).toBe("tree");
  expect(on(4, 1e-9, 1e6)).toBe("allscan");
});

test("the H200's times are those measured", () => {
  const options = { backward: true, dtype: "bf16", dims: { K: 128, V: 128 } } as const;
  const { rows } = JSON.parse(
    readFileSync(join(import.meta.dirname, "../../bench/h200.json"), "utf8"),
  ) as {
    rows: readonly { [key: string]: string | number }[];
  };
  for (const name of ["lightning", "gla", "delta-net"]) {
    const { manifest: of } = compileExample(name, options);
    // Of one head to each processor, and of fewer, in segments.
    for (const shape of ["8,8192,16", "1,65536,16"]) {
      const [B, T, H] = shape.split(",").map(Number) as [number, number, number];
      const ms = (form: string) => {
        const spec = of.forms.find((one) => one.name === form)!;
        return launchSeconds(spec, of, { B, T, H }, speed) * 1e3;
      };
      const row = rows.find(
        (one) =>
          one["rule"] === name &&
          one["of"] === "laspc" &&
          one["shape"] === shape &&
          one["forward_ms"],
      )!;
      expect(ms("forward") / Number(row["forward_ms"]), name).toBeCloseTo(1, 1);
      const both = (ms("forward") + ms("backward")) / Number(row["forward_backward_ms"]);
      expect(both, name).toBeCloseTo(1, 1);
    }
  }
  // The flops that laspc explain prints for K = V = 128.
  const { manifest: lightning } = compileExample("lightning", options);
  expect(flopsOf("forward", lightning)).toBe(98304);
});

test("4096K tokens on 128 devices take the simulator no longer than 2K", () => {
  const plan: Plan = planOf(manifest, "ring", 128);
  for (const T of [1 << 11, 1 << 22]) {
    const { times } = simulate(plan, manifest, { ...sizes, T }, machine);
    expect(times.length).toBe(plan.ranks.reduce((sum, { steps }) => sum + steps.length, 0));
  }
  expect(scheduleNames.length).toBeGreaterThan(1);
});
