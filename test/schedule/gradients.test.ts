/** Outputs and gradients by every schedule: every rule on several ranks is what one device gives. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { allgatherPlan } from "../../compiler/schedule/allgather.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import type { Device } from "../../runtime/device.ts";
import type { RanksResult } from "../../runtime/run.ts";
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

/** What the ring cannot give the gradients of, and what is said then. */
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
    const { states, forms } = compiled.manifest;
    const [B, H] = [2, 2];
    const state = B * H * 4 * sum(states.map(({ dims: [K, V] }) => K! * V!));
    const decays = forms.find((form) => form.name === "summary")?.outputs ?? [];
    const decay =
      B *
      H *
      4 *
      sum(decays.filter(({ name: x }) => x.startsWith("decay_")).map((x) => x.dims[0] ?? 1));
    for (const [T, ranks] of [
      [70, 1],
      [70, 2],
      [71, 3],
      [70, 5],
      [150, 8],
      [5, 8],
      [0, 2],
    ] as const) {
      const sizes = sizesOf({ T, B, H });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const check = async (result: RanksResult) => {
        const { ok, outputs } = await compare(compiled, inputs, sizes, result);
        expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
      };
      const ring = await runBackward(compiled, device, inputs, sizes, ranks, "ring");
      await check(ring);
      // One state forwards and one cotangent back between neighbours, whatever the length.
      expect(sum(ring.bytesSent)).toBe(2 * (ranks - 1) * state);
      if (states.some(({ dense }) => dense)) continue;
      const gathered = await runBackward(compiled, device, inputs, sizes, ranks, "allgather");
      // The first rank's state goes to all behind it; of each other its state and decay do.
      const behind = Array.from({ length: ranks }, (_, place) => ranks - 1 - place);
      const [first = 0, ...others] = behind;
      expect(sum(gathered.bytesSent)).toBe(2 * (first * state + sum(others) * (state + decay)));
      expect([...gathered.tensors]).toEqual([...ring.tensors]);
    }
  });

  test.skipIf(name in refused)("plans are sound for 1 to 16 ranks", () => {
    const { manifest } = compiled;
    const isDense = manifest.states.some(({ dense }) => dense);
    for (let ranks = 1; ranks <= 16; ranks++) {
      for (const backward of [false, true]) {
        expect(() => planOf(manifest, "ring", ranks, backward)).not.toThrow();
        const gather = () => planOf(manifest, "allgather", ranks, backward);
        if (isDense && ranks > 1) expect(gather).toThrow("has a dense transition");
        else expect(gather).not.toThrow();
      }
    }
  });

  test.skipIf(!(name in refused))("what several ranks cannot do is said", () => {
    expect(() => planOf(compiled.manifest, "ring", 2, true)).toThrow(refused[name]);
    expect(() => allgatherPlan(compiled.manifest, 2)).toThrow("--schedule ring may do");
    expect(() => planOf(compiled.manifest, "ring", 1, true)).not.toThrow();
  });
});
