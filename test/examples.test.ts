/** Every example on every device that can be had here: all lengths, all rank counts, poisoned memory. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createReferenceDevice } from "../codegen/reference/device.ts";
import type { Compiled } from "../compiler/index.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import type { Device } from "../runtime/device.ts";
import { findDevice } from "./support/devices.ts";
import { downloads } from "./tolerance.ts";
import {
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  referencePrograms,
  ringForms,
  runRing,
  sizesOf,
} from "./support/examples.ts";

const lengths = [0, 1, 63, 64, 65, 1000];
const rankCounts = [1, 2, 3, 5, 8];

describe.each(exampleNames)("%s", (name) => {
  test("reference: quadratic form = token by token = sharded", async () => {
    const compiled = compileExample(name, { dims: { K: 16, V: 24 } });
    const device = createReferenceDevice(referencePrograms(compiled));
    for (const T of [0, 1, 7, 65]) {
      const sizes = sizesOf({ T });
      const inputs = randomInputs(compiled, sizes);
      for (const ranks of rankCounts) {
        const devices = Array.from({ length: ranks }, () => device);
        const result = await runRing(compiled, devices, inputs, sizes);
        const { outputs } = await compare(compiled, inputs, sizes, result);
        // Downloads round to float32; nothing else separates the two.
        for (const output of Object.values(outputs))
          expect(output.rmse_ratio).toBeLessThan(downloads);
      }
    }
  });

  describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
    const { available, why } = findDevice(kind);
    let compiled: Compiled;
    let device: Device;
    beforeAll(async () => {
      if (!available) return;
      compiled = compileExample(name, {
        dims: { K: 32, V: 48 },
        targets: await targetsFor([kind]),
      });
      const forms = ringForms(compiled);
      device = await openDevice(kind, compiled, { threads: null, poison: true, forms });
    });
    afterAll(() => device?.close());

    test.skipIf(!available)(`chunkwise = reference on 1, 2, 3, 5, 8 devices${why}`, async () => {
      for (const T of lengths) {
        const sizes = sizesOf({ T });
        const inputs = randomInputs(compiled, sizes);
        for (const ranks of kind === "cpu" ? rankCounts : [1, 3]) {
          const devices = Array.from({ length: ranks }, () => device);
          const result = await runRing(compiled, devices, inputs, sizes);
          const { ok, outputs } = await compare(compiled, inputs, sizes, result);
          expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
        }
      }
    });
  });
});
