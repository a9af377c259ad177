/** Gradients along the ring: every rule on several ranks is what one device gives, with messages of one size. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { backwardPlan } from "../../compiler/schedule/ring-backward.ts";
import { planProblem } from "../../compiler/schedule/verify.ts";
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

/** Rules whose gradients several ranks cannot give, and what is said of them. */
const refused: Readonly<Record<string, string>> = {
  "linear-attention-bidirectional": "every token reads all of S: its gradients run on one device",
  "both-ways": "the states S and R run in both directions: their gradients run on one device",
};

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    const targets = await targetsFor(["cpu"]);
    compiled = compileExample(name, { dims: { K: 16, V: 20 }, targets, backward: true });
    device = await openDevice("cpu", compiled, { threads: 1, poison: true });
  });
  afterAll(() => device?.close());

  test.skipIf(name in refused)("outputs and every gradient, on 1 to 8 ranks", async () => {
    for (const [T, ranks] of [
      [70, 2],
      [71, 3],
      [70, 5],
      [150, 8],
      [5, 8],
      [0, 2],
    ] as const) {
      const sizes = sizesOf({ T, B: 2 });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes, ranks);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
      const { states } = compiled.manifest;
      const message = states.reduce((sum, { dims: [K, V] }) => sum + 2 * 2 * K! * V! * 4, 0);
      // One state forwards and one cotangent back between neighbours, whatever the length.
      const total = result.bytesSent.reduce((a, b) => a + b, 0);
      expect(total).toBe(2 * (ranks - 1) * message);
    }
  });

  test.skipIf(name in refused)("plans are sound for 1 to 16 ranks", () => {
    const { manifest } = compiled;
    for (let ranks = 1; ranks <= 16; ranks++) {
      expect(planProblem(backwardPlan(manifest, ranks), manifest)).toBeNull();
    }
  });

  test.skipIf(!(name in refused))("what several ranks cannot do is said", () => {
    expect(() => backwardPlan(compiled.manifest, 2)).toThrow(refused[name]);
    expect(planProblem(backwardPlan(compiled.manifest, 1), compiled.manifest)).toBeNull();
  });
});
