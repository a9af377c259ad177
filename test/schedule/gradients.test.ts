/** Outputs and gradients by every schedule: every rule on several ranks is what one device gives. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { planOf, scheduleNames } from "../../compiler/schedule/index.ts";
import { bytesOf } from "../support/volume.ts";
import type { Device } from "../../runtime/device.ts";
import { findDevice } from "../support/devices.ts";
import {
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "../support/examples.ts";

const { available, why } = findDevice("cpu");
const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    const targets = await targetsFor(["cpu"]);
    compiled = compileExample(name, { dims: { K: 16, V: 20 }, targets, backward: true });
    device = await openDevice("cpu", compiled, { threads: 1, poison: true });
  });
  afterAll(() => device?.close());

  test.each(scheduleNames)("%s: outputs and every gradient, on 1 to 8 ranks", async (schedule) => {
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
      expect(sum(result.bytesSent)).toBe(bytesOf(manifest, schedule, ranks, sizes));
      if (schedule !== "allgather") continue;
      const ring = await runBackward(compiled, device, inputs, sizes, ranks, "ring");
      // Both fold in one order.
      expect([...result.tensors]).toEqual([...ring.tensors]);
    }
  });

  test("plans are sound for 1 to 16 ranks", () => {
    for (let ranks = 1; ranks <= 16; ranks++) {
      for (const schedule of scheduleNames) {
        for (const backward of [false, true]) planOf(compiled.manifest, schedule, ranks, backward);
      }
    }
  });
});
