/** Emitted CUDA, executed in software: every example against the float64 reference. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import type { Compiled } from "../../../compiler/index.ts";
import type { Device, LaunchSizes } from "../../../runtime/device.ts";
import {
  artifactOf,
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ringForms,
  runRing,
  sizesOf,
} from "../../support/examples.ts";
import { available, backward, checkKernels, createSoftwareCuda, why } from "./software/index.ts";

const targets = [cudaTarget];

async function check(compiled: Compiled, device: Device, ranks: number, sizes: LaunchSizes) {
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const devices = Array.from({ length: ranks }, () => device);
  const result = await runRing(compiled, devices, inputs, sizes);
  const { ok, outputs } = await compare(compiled, inputs, sizes, result);
  expect(ok, `T ${sizes.T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
}

describe.skipIf(!available).each(exampleNames)(`%s${why}`, (name) => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    compiled = compileExample(name, { dims: { K: 32, V: 48 }, targets });
    await checkKernels(compiled);
    device = await createSoftwareCuda();
    await device.load(artifactOf(compiled), ringForms(compiled));
  });
  afterAll(() => device?.close());

  test("every length, on one and on three ranks", async () => {
    for (const T of [0, 1, 63, 64, 65, 150]) {
      for (const ranks of [1, 3]) await check(compiled, device, ranks, sizesOf({ T }));
    }
  });

  test("no barrier is missing: threads in the other order give the same", async () => {
    await backward(() => check(compiled, device, 2, sizesOf({ T: 130 })));
  });

  test("several batches, heads that share keys and values", async () => {
    const shared = compiled.manifest.inputs.filter(({ per }) => per === "token").slice(1);
    const heads = Object.fromEntries(shared.map((input) => [input.name, 2]));
    await check(compiled, device, 2, sizesOf({ T: 70, B: 2, H: 4, heads }));
  });
});

test.skipIf(!available).each(["f16", "bf16"] as const)(
  `%s storage, sizes that divide nothing${why}`,
  async (dtype) => {
    const compiled = compileExample("simple-gla", { dims: { K: 20, V: 100 }, dtype, targets });
    await checkKernels(compiled);
    const device = await createSoftwareCuda();
    await device.load(artifactOf(compiled), ringForms(compiled));
    for (const T of [1, 100]) await check(compiled, device, 2, sizesOf({ T }));
    await device.close();
  },
);

test.skipIf(!available)(`columns split over blocks: K = V = 128${why}`, async () => {
  const compiled = compileExample("retention", { dims: { K: 128, V: 128 }, targets });
  await checkKernels(compiled);
  const device = await createSoftwareCuda();
  await device.load(artifactOf(compiled), ringForms(compiled));
  await check(compiled, device, 2, sizesOf({ T: 100 }));
  await device.close();
});
