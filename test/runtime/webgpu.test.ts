/** Kernels with more tensors than a shader may have buffers: bundles gathered and taken apart. */
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import type { Device } from "../../runtime/device.ts";
import { createWebGpuDevice } from "../../runtime/devices/webgpu.ts";
import { findDevice } from "../support/devices.ts";
import {
  compare,
  compileText,
  randomInputs,
  ringForms,
  runRing,
  sizesOf,
} from "../support/examples.ts";

/** Far more tensors than eight of every kind, with odd sizes, so that no part ends where a word does. */
const many = `
attention many(
  q: [T, K], k: [T, K], v: [T, V],
  a: [T], b: [T, K], c: [T, K], d: [T], e: [T, K], f: [T, K], g: [T] in (-inf, 0],
  h: [T, V], i: [T], j: [T, V],
  slope: scalar per head in [0, 0.5], bias: [K] per head, w: [V] shared, u: scalar per head
) -> (o: [T, V], norm: [T], query: [T, K], key: [T, K], value: [T, V], x: [T], y: [T], z: [T]) {
  query = q * a * b * (c + bias)
  key = k * d * e * sigmoid(f)
  value = v * h * (i + u) * j
  scores = (query @ key.T) * causal_decay(g - slope)
  return rmsnorm(scores @ value, w), sum(scores), query, key, value, a * d, d * i, i * a
}
`;

const { available, why } = findDevice("webgpu");

test.skipIf(!available)(`only what will be launched is compiled${why}`, async () => {
  const targets = await targetsFor(["webgpu"]);
  const compiled = compileText(many, { dims: { K: 4, V: 4 }, targets });
  const forms = ["fold_S", "compose_S"];
  const device = await openDevice("webgpu", compiled, { threads: null, poison: true, forms });
  const run = runRing(
    compiled,
    [device],
    randomInputs(compiled, sizesOf({ T: 1 })),
    sizesOf({ T: 1 }),
  );
  await expect(run).rejects.toThrow("no form forward for webgpu is loaded");
  await device.close();
});

test("a long wait leaves the processor to the driver", async () => {
  let isDone = false;
  // As Dawn does in Node.
  const ask = (): unknown => isDone || setImmediate(ask);
  const work = () => {
    ask();
    return setTimeout(500).then(() => void (isDone = true));
  };
  const gpu = {
    addEventListener() {},
    lost: new Promise(() => {}),
    queue: { onSubmittedWorkDone: work },
  };
  const device = await createWebGpuDevice({ gpu: gpu as unknown as GPUDevice });
  const before = process.cpuUsage();
  await device.wait();
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000).toBeLessThan(250);
});

describe.each(["f32", "bf16", "f16"] as const)("%s", (dtype) => {
  let compiled: Compiled;
  let device: Device;
  beforeAll(async () => {
    if (!available) return;
    const targets = await targetsFor(["webgpu"]);
    compiled = compileText(many, { dims: { K: 15, V: 17 }, dtype, targets });
    const forms = ringForms(compiled);
    device = await openDevice("webgpu", compiled, { threads: null, poison: true, forms });
  });
  afterAll(() => device?.close());

  test.skipIf(!available)(`more tensors than bindings = reference${why}`, async () => {
    const code = compiled.manifest.targets.find(({ target }) => target === "wgsl")!;
    const kernels = code.forms.flatMap((form) => form.kernels);
    const shared = kernels.flatMap(({ buffers }) => buffers).filter(({ parts }) => parts);
    expect(new Set(shared.map(({ access }) => access))).toEqual(new Set(["read", "write"]));
    expect(Math.max(...kernels.map(({ buffers }) => buffers.length))).toBe(8);
    for (const T of [0, 1, 67]) {
      const sizes = sizesOf({ T, B: 3, H: 3, heads: { k: 1, a: 1, bias: 1 } });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      for (const ranks of [1, 3]) {
        const devices = Array.from({ length: ranks }, () => device);
        const result = await runRing(compiled, devices, inputs, sizes);
        const { ok, outputs } = await compare(compiled, inputs, sizes, result);
        expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
      }
    }
  });

  test.skipIf(!available)(`packed sequences in shared buffers = reference${why}`, async () => {
    const cuSeqlens = [0, 30, 30, 67];
    const sizes = sizesOf({ T: 67, B: 3, H: 3, heads: { k: 1, a: 1, bias: 1 }, cuSeqlens });
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const result = await runRing(compiled, [device], inputs, sizes);
    const { ok, outputs } = await compare(compiled, inputs, sizes, result);
    expect(ok, JSON.stringify(outputs)).toBe(true);
  });
});
