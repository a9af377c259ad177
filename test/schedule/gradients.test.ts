/** Outputs and gradients by every schedule: every rule on several ranks is what one device gives. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { exchangeNames, peerNames, planOf } from "../../compiler/schedule/index.ts";
import { volumeOf } from "../support/volume.ts";
import { runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { deviceSpeeds, fabrics } from "../../compiler/schedule/fabrics.ts";
import { simulate } from "../../compiler/schedule/simulate.ts";
import type { Device } from "../../runtime/device.ts";
import { findDevice } from "../support/devices.ts";
import {
  compare,
  compileExample,
  compileText,
  exampleNames,
  randomInputs,
  referencePrograms,
  ruleNames,
  runBackward,
  runRing,
  sizesOf,
} from "../support/examples.ts";

const { available, why } = findDevice("cpu");
const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    const targets = await targetsFor(["cpu"]);
    const options = { dims: { K: 16, V: 20 }, targets, backward: true, overlap: true };
    compiled = compileExample(name, options);
    device = await openDevice("cpu", compiled, { threads: 1, poison: true });
  });
  afterAll(() => device?.close());

  test.each(exchangeNames)("%s: outputs and every gradient, on 1 to 8 ranks", async (schedule) => {
    const { manifest } = compiled;
    for (const [T, ranks] of [
      [70, 1],
      [70, 2],
      [71, 3],
      [70, 5],
      [150, 8],
      [5, 8],
      [0, 2],
    ] as const) {
      const sizes = sizesOf({ T, B: 2, H: 2 });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes, ranks, schedule);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
      const sent = { bytes: sum(result.bytesSent), messages: sum(result.messagesSent) };
      expect(sent).toEqual(volumeOf(manifest, schedule, ranks, sizes));
      if (schedule !== "allgather") continue;
      const ring = await runBackward(compiled, device, inputs, sizes, ranks, "ring");
      // Both fold in one order.
      expect([...result.tensors]).toEqual([...ring.tensors]);
    }
  });

  test.each(peerNames)("%s: the same, whole heads or tokens moved", async (schedule) => {
    const { manifest } = compiled;
    const { states } = manifest;
    // Ring Attention folds what passes by, which comes last first.
    const isFolded = states.every(({ dense, causal }) => !dense && causal);
    const oneWay = new Set(states.map(({ reverse }) => reverse)).size === 1;
    const oneLevel = states.every(({ level }) => level === 0);
    if (schedule === "ring-attention" && !(isFolded && oneWay && oneLevel)) {
      const refused = /^ring-attention .*; --schedule ring or ulysses may do$/;
      expect(() => planOf(manifest, schedule, 4)).toThrow(refused);
      expect(() => planOf(manifest, schedule, 4, true)).toThrow(refused);
      return;
    }
    for (const [T, H, ranks] of [
      [70, 4, 2],
      [71, 3, 3],
      [37, 8, 4],
      [5, 8, 8],
      [0, 2, 2],
    ] as const) {
      const sizes = sizesOf({ T, B: 2, H });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const plan = planOf(manifest, schedule, ranks, true);
      const transports = inProcessTransports(ranks);
      const devices = plan.ranks.map(() => device);
      const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
      // What the simulator counts is what the transports counted.
      const machine = { fabric: fabrics.nvlink, speed: deviceSpeeds["h200"]! };
      const simulated = simulate(plan, manifest, sizes, machine);
      expect(simulated.bytesSent).toEqual(result.bytesSent);
      expect(sum(simulated.bytesReceived)).toBe(sum(simulated.bytesSent));
      if (schedule !== "ring-attention") continue;
      const ring = await runBackward(compiled, device, inputs, sizes, ranks, "ring");
      // Both fold in one order.
      const bits = (tensors: typeof ring.tensors) => Object.fromEntries(tensors);
      expect(bits(result.tensors)).toEqual(bits(ring.tensors));
    }
  });

  test("meshes and packed sequences: cut anywhere, some ranks without a token", async () => {
    const { manifest } = compiled;
    const packed = [0, 5, 5, 40, 70];
    for (const [i, { mesh, sizes }] of [
      { mesh: { seq: 3, data: 2 }, sizes: sizesOf({ T: 50, B: 3 }) },
      { mesh: { seq: 2, data: 3 }, sizes: sizesOf({ T: 20, B: 2 }) },
      { mesh: { seq: 3, data: 1 }, sizes: sizesOf({ T: 70, B: 4, cuSeqlens: packed }) },
      { mesh: { seq: 4, data: 2 }, sizes: sizesOf({ T: 70, B: 4, cuSeqlens: packed }) },
    ].entries()) {
      const schedule = exchangeNames[i % exchangeNames.length]!;
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes, mesh, schedule);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      const what = `${schedule} ${JSON.stringify(mesh)}, T ${sizes.T}`;
      expect(ok, `${what}: ${JSON.stringify(outputs)}`).toBe(true);
      expect(manifest.positional).toBe(false);
    }
  });

  test("the forward in two parts, one of them beside the exchange", async () => {
    const { manifest } = compiled;
    for (const schedule of exchangeNames) {
      const sizes = sizesOf({ T: 100 });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const plan = planOf(manifest, schedule, 3, false, true);
      const transports = inProcessTransports(3);
      const devices = plan.ranks.map(() => device);
      const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `${schedule}: ${JSON.stringify(outputs)}`).toBe(true);
      // Nothing that the first part needs has come from elsewhere.
      for (const { steps } of plan.ranks) {
        const needs = (id: number): number[] => [id, ...steps[id]!.after.flatMap(needs)];
        const local = steps.find((step) => step.kind === "launch" && step.form === "local");
        const kinds = local ? needs(local.id).map((id) => steps[id]!.kind) : [];
        expect(kinds.filter((kind) => kind !== "alloc" && kind !== "launch")).toEqual([]);
      }
    }
  });

  test("plans are sound for 1 to 16 ranks", () => {
    for (let ranks = 1; ranks <= 16; ranks++) {
      for (const schedule of exchangeNames) {
        for (const backward of [false, true]) planOf(compiled.manifest, schedule, ranks, backward);
      }
    }
  });
});

test("Ring Attention turns the other way where a state runs from the last token to the first", async () => {
  const text = `attention behind(q: [T, K], k: [T, K], v: [T, V], h: [T, K] in (-inf, 0]) -> [T, V] {
    return recurrence R: [K, V] reverse {
      R = exp(h) * R + outer(k, v)
      yield q @ R
    }
  }`;
  const compiled = compileText(text, { dims: { K: 8, V: 6 }, backward: true });
  const device = createReferenceDevice(referencePrograms(compiled));
  const sizes = sizesOf({ T: 23, B: 2 });
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const result = await runBackward(compiled, device, inputs, sizes, 3, "ring-attention");
  const { ok, outputs } = await compare(compiled, inputs, sizes, result);
  expect(ok, JSON.stringify(outputs)).toBe(true);
  // The last rank's tokens are read by all others, and the first one's by none.
  const sent = result.bytesSent;
  const forward = await runRanks({
    plan: planOf(compiled.manifest, "ring-attention", 3),
    manifest: compiled.manifest,
    devices: [device, device, device],
    transports: inProcessTransports(3),
    inputs,
    sizes,
  });
  expect(forward.bytesSent[0]).toBe(0);
  expect(sent[0]).toBeGreaterThan(0);
});

test("packed sequences of what counts tokens are not cut over devices", async () => {
  const compiled = compileText(`attention turned(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {
    return ((rotary(q) @ rotary(k).T) * causal()) @ v
  }`);
  const device = createReferenceDevice(referencePrograms(compiled));
  const sizes = sizesOf({ T: 70, B: 2, cuSeqlens: [0, 30, 70] });
  const run = runRing(compiled, [device, device], randomInputs(compiled, sizes), sizes);
  await expect(run).rejects.toThrow("turned counts tokens: packed sequences of it are not cut");
});
