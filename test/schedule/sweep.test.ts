/** laspc plan --simulate --sweep: lengths by devices, beside what the LASP paper reports. */
import { describe, expect, test } from "vitest";
import { deviceSpeeds, fabrics } from "../../compiler/schedule/fabrics.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import { simulate } from "../../compiler/schedule/simulate.ts";
import { sweepToSvg } from "../../compiler/schedule/sweep-svg.ts";
import { type Model, longest, sweep } from "../../compiler/schedule/sweep.ts";
import { compileExample } from "../support/examples.ts";

const options = { backward: true, dtype: "bf16", dims: { K: 128, V: 128 } } as const;
const { manifest } = compileExample("lightning", options);
const machine = { fabric: fabrics["dgx-a100"], speed: deviceSpeeds["a100"]! };
const sizes = { B: 1, H: 16 };
// TransNormerLLM 1B: arXiv 2307.14995, table 1.
const tnl: Model = { parameters: 1e9, layers: 16, hidden: 2048, vocabulary: 64000 };
const K = 1024;

test("one attention of a sweep is what --simulate says of it", () => {
  const axes = { tokens: [4 * K], devices: [4] };
  const { points } = sweep(manifest, sizes, axes, machine, true, null);
  const ring = points.find(({ schedule }) => schedule === "ring")!;
  const plan = planOf(manifest, "ring", 4, true);
  const { seconds, peakBytes } = simulate(plan, manifest, { ...sizes, T: 4 * K }, machine);
  expect(ring.tokensPerS).toBeCloseTo((4 * K) / seconds, 3);
  expect(ring.memoryBytes).toBe(Math.max(...peakBytes));
});

test("the longest sequences of TNL-1B on A100s are the LASP paper's, but for Megatron's", () => {
  const axes = { tokens: [256, 512, 1024, 2048, 4096].map((n) => n * K), devices: [64, 128] };
  const swept = sweep(manifest, sizes, axes, machine, true, tnl);
  expect(longest(swept, "ring", 64)).toBe(2048 * K);
  expect(longest(swept, "ring", 128)).toBe(4096 * K);
  expect(longest(swept, "ulysses", 64)).toBe(512 * K);
  expect(longest(swept, "megatron", 64)).toBe(512 * K);
  // At 256K on 64 every schedule is faster here than there, in the same order.
  const at = (schedule: string) =>
    swept.points.find(
      (point) => point.schedule === schedule && point.devices === 64 && point.tokens === 256 * K,
    )!.tokensPerS;
  expect(at("ring")).toBeGreaterThan(1.71e5);
  expect(at("ulysses")).toBeGreaterThan(1.25e5);
  expect(at("ulysses") / at("megatron")).toBeGreaterThan(1.25 / 0.73);
});

describe("schedules that compute whole heads", () => {
  const axes = { tokens: [64 * K], devices: [24] };
  const { points, unsupported } = sweep(manifest, sizes, axes, machine, true, null);

  test("share a sequence among as many devices as the heads allow", () => {
    const shares = new Map(points.map(({ schedule, perSequence }) => [schedule, perSequence]));
    expect(shares.get("ring")).toBe(24);
    expect(shares.get("ulysses")).toBe(8);
    expect(shares.get("megatron")).toBe(8);
  });

  test("what a schedule cannot do is named with the reason", () => {
    expect(unsupported).toEqual([]);
    const { manifest: delta } = compileExample("delta-net", options);
    const found = sweep(delta, sizes, axes, machine, true, null);
    expect(found.unsupported.map(({ schedule }) => schedule)).toEqual(["ring-attention"]);
    expect(found.unsupported[0]!.why).toMatch(/cannot fold a state of S/);
    expect(found.points.length).toBe(points.length - 1);
  });
});

test("a plot has a line for each schedule, on each number of devices, twice", () => {
  const axes = { tokens: [2 * K, 64 * K], devices: [2, 4] };
  const swept = sweep(manifest, sizes, axes, machine, false, tnl);
  const svg = sweepToSvg(swept, machine.speed, "lightning");
  expect(svg.match(/<polyline/g)!.length).toBe(7 * 2 * 2);
  expect(svg).toContain("4 devices: tokens/s");
  expect(svg).not.toMatch(/NaN|Infinity/);
});
