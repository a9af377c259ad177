/** Batches, heads and states: each head is its own, shared heads are shared, a prefix hands over its state. */
import { describe, expect, test } from "vitest";
import { createReferenceDevice } from "../codegen/reference/device.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import { rmseRatio, tolerances } from "../compiler/tolerance.ts";
import type { Device, HostTensor, LaunchSizes } from "../runtime/device.ts";
import { cutAxis } from "../runtime/mesh.ts";
import { findDevice } from "./support/devices.ts";
import {
  compare,
  compileExample,
  randomInputs,
  referencePrograms,
  ringForms,
  runRing,
  sizesOf,
} from "./support/examples.ts";

const kinds = ["reference", "cpu", "webgpu"] as const;

async function setUp(kind: (typeof kinds)[number], name: string) {
  const compiled = compileExample(name, {
    dims: { K: 16, V: 16 },
    targets: await targetsFor([kind]),
  });
  const forms = ringForms(compiled);
  const device: Device =
    kind === "reference"
      ? createReferenceDevice(referencePrograms(compiled))
      : await openDevice(kind, compiled, { threads: null, poison: true, forms });
  const run = (inputs: ReadonlyMap<string, HostTensor>, sizes: LaunchSizes, ranks = 1) =>
    runRing(
      compiled,
      Array.from({ length: ranks }, () => device),
      inputs,
      sizes,
    );
  return { compiled, device, run };
}

describe.each(kinds)("%s", (kind) => {
  const { available, why } = kind === "reference" ? { available: true, why: "" } : findDevice(kind);

  test.skipIf(!available)(`a head's decay changes that head, and only it${why}`, async () => {
    const { compiled, run, device } = await setUp(kind, "retention");
    const sizes = sizesOf({ T: 70, H: 3 });
    const inputs = randomInputs(compiled, sizes);
    const before = (await run(inputs, sizes, 3)).tensors.get("o")!.data;
    const gamma = inputs.get("gamma")!;
    inputs.set("gamma", {
      ...gamma,
      data: Float32Array.from(gamma.data, (x, i) => (i === 1 ? x / 2 : x)),
    });
    const after = (await run(inputs, sizes, 3)).tensors.get("o")!.data;
    const changed = new Set<number>();
    before.forEach((x, i) => x !== after[i] && changed.add(Math.floor(i / 16) % 3));
    expect([...changed]).toEqual([1]);
    await device.close();
  });

  test.skipIf(!available)(`query heads share key and value heads${why}`, async () => {
    const { compiled, run, device } = await setUp(kind, "simple-gla");
    const sizes = sizesOf({ T: 70, H: 4, B: 2, heads: { k: 2, v: 2, g: 1 } });
    const inputs = randomInputs(compiled, sizes, { initial: true });
    for (const ranks of [1, 3]) {
      const { ok, outputs } = await compare(
        compiled,
        inputs,
        sizes,
        await run(inputs, sizes, ranks),
      );
      expect(ok, JSON.stringify(outputs)).toBe(true);
    }
    await device.close();
  });

  test.skipIf(!available)(`a prefix and its state, then the rest = the whole${why}`, async () => {
    const { compiled, run, device } = await setUp(kind, "mamba2-ssd");
    const sizes = sizesOf({ T: 100, B: 2 });
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const whole = await run(inputs, sizes);
    let state = inputs.get("initial_S")!;
    for (const [from, to] of [
      [0, 37],
      [37, 38],
      [38, 100],
    ] as const) {
      const part = new Map(inputs).set("initial_S", state);
      for (const { name, per } of compiled.manifest.inputs) {
        if (per === "token") part.set(name, cutAxis(inputs.get(name)!, 1, from, to));
      }
      const result = await run(part, { ...sizes, T: to - from, token_offset: from });
      const wanted = cutAxis(whole.tensors.get("o")!, 1, from, to);
      expect(rmseRatio(wanted.data, result.tensors.get("o")!.data)).toBeLessThan(tolerances.f32);
      state = result.tensors.get("final_S")!;
    }
    expect(rmseRatio(whole.tensors.get("final_S")!.data, state.data)).toBeLessThan(tolerances.f32);
    await device.close();
  });
});
