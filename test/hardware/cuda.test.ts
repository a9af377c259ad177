/** Every example on a real GPU, against the float64 reference. Skipped, with the reason, without one. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import type { Compiled, CompileOptions } from "../../compiler/index.ts";
import type { Device, LaunchSizes } from "../../runtime/device.ts";
import { createCudaDevice } from "../../runtime/devices/cuda.ts";
import {
  artifactOf,
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  runRing,
  sizesOf,
} from "../support/examples.ts";

const missing = await createCudaDevice().then(
  (device) => device.close().then(() => null),
  (error: unknown) => (error as Error).message,
);
const why = missing === null ? "" : ` (skipped: ${missing})`;

const cases: readonly Pick<CompileOptions, "dims" | "dtype">[] = [
  { dims: { K: 64, V: 64 }, dtype: "f32" },
  { dims: { K: 128, V: 128 }, dtype: "f32" },
  { dims: { K: 128, V: 128 }, dtype: "bf16" },
  { dims: { K: 20, V: 100 }, dtype: "f16" },
  { dims: { K: 256, V: 256 }, dtype: "f32" },
];

async function check(compiled: Compiled, devices: readonly Device[], sizes: LaunchSizes) {
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const result = await runRing(compiled, devices, inputs, sizes);
  const { ok, outputs } = await compare(compiled, inputs, sizes, result);
  expect(ok, `T ${sizes.T}, ${devices.length} ranks: ${JSON.stringify(outputs)}`).toBe(true);
}

describe.skipIf(missing !== null).each(exampleNames)(`%s${why}`, (name) => {
  describe.each(cases)("K = $dims.K, V = $dims.V, $dtype", (options) => {
    let compiled: Compiled;
    let devices: Device[];
    beforeAll(async () => {
      compiled = compileExample(name, { ...options, targets: [cudaTarget] });
      const open = () => createCudaDevice({ poison: true });
      devices = await Promise.all([open(), open(), open()]);
      for (const device of devices) await device.load(artifactOf(compiled));
    });
    afterAll(() => Promise.all((devices ?? []).map((device) => device.close())));

    test("every length, on one and on three ranks", async () => {
      for (const T of [0, 1, 63, 64, 65, 1000]) {
        await check(compiled, devices.slice(0, 1), sizesOf({ T }));
        await check(compiled, devices, sizesOf({ T }));
      }
    });

    test("several batches, heads that share keys and values", async () => {
      const shared = compiled.manifest.inputs.filter(({ per }) => per === "token").slice(1);
      const heads = Object.fromEntries(shared.map((input) => [input.name, 2]));
      await check(compiled, devices, sizesOf({ T: 300, B: 2, H: 8, heads }));
    });
  });
});
