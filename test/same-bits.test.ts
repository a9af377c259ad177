/**
 * The bits of a sequence are its own: alone, in a batch, packed with others, or as a prefill and steps of a
 * deterministic decode, for sequences that are not cut into segments.
 */
import { describe, expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import type { Compiled } from "../compiler/index.ts";
import { decode } from "../runtime/decode.ts";
import type { Device, HostTensor } from "../runtime/device.ts";
import { cutAxis, joinAxis } from "../runtime/mesh.ts";
import * as software from "./codegen/cuda/software/index.ts";
import { findDevice } from "./support/devices.ts";
import {
  artifactOf,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  sizesOf,
} from "./support/examples.ts";

const { available, why } = findDevice("cpu");
const [batch, own, T] = [7, 3, 150];

type Tensors = ReadonlyMap<string, HostTensor>;

/** The outputs of one sequence in every company, which must all be the first. */
async function companies(compiled: Compiled, device: Device): Promise<readonly Tensors[]> {
  const { manifest } = compiled;
  const sizes = sizesOf({ B: batch, T });
  const whole = randomInputs(compiled, sizes);
  const perToken = new Set(
    manifest.inputs.filter(({ per }) => per === "token").map(({ name }) => name),
  );
  const outputs = new Set(manifest.outputs.map(({ name }) => name));
  const mapped = (
    tensors: Tensors,
    names: ReadonlySet<string>,
    cut: (x: HostTensor) => HostTensor,
  ) => new Map([...tensors].map(([name, x]) => [name, names.has(name) ? cut(x) : x] as const));
  const run = { manifest, device };
  const row = (x: HostTensor) => cutAxis(x, 0, own, own + 1);
  const alone = { ...run, inputs: mapped(whole, perToken, row), sizes: sizesOf({ B: 1, T }) };
  const inBatch = await decode({ ...run, inputs: whole, sizes, steps: 0 });
  // 37 tokens of another sequence, this one, and 5 of a third.
  const packing = [cutAxis(whole.get([...perToken][0]!)!, 0, 0, 1)];
  expect(packing[0]!.shape[1]).toBe(T);
  const packed = mapped(whole, perToken, (x) => {
    const other = cutAxis(x, 0, 0, 1);
    return joinAxis([cutAxis(other, 1, 0, 37), row(x), cutAxis(other, 1, 0, 5)], 1);
  });
  const cuSeqlens = [0, 37, 37 + T, 42 + T];
  const packedSizes = { ...sizesOf({ B: 3, T: 42 + T }), cuSeqlens };
  const inPack = await decode({ ...run, inputs: packed, sizes: packedSizes, steps: 0 });
  const found: Tensors[] = [
    await decode({ ...alone, steps: 0 }),
    new Map([...inBatch].map(([name, x]) => [name, row(x)])),
    new Map(
      [...inPack].map(([name, x]) => [
        name,
        outputs.has(name) ? cutAxis(x, 1, 37, 37 + T) : cutAxis(x, 0, 1, 2),
      ]),
    ),
  ];
  if (manifest.forms.some(({ name }) => name === "step")) {
    for (const steps of [1, 30, T])
      found.push(await decode({ ...alone, steps, deterministic: true }));
  }
  return found;
}

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  test("the same bits in every company", async () => {
    const targets = await targetsFor(["cpu"]);
    const compiled = compileExample(name, { dims: { K: 16, V: 20 }, targets });
    if (compiled.manifest.positional) return;
    const device = await openDevice("cpu", compiled, { threads: 2, poison: true });
    const [first, ...others] = await companies(compiled, device);
    for (const other of others) expect([...other]).toEqual([...first!]);
    await device.close();
  });
});

test.skipIf(!software.available).each(["retention", "gla", "gated-delta-net"])(
  `%s on tensor cores${software.why}`,
  async (name) => {
    const dims = { K: 16, V: 32 };
    const compiled = compileExample(name, { dims, dtype: "bf16", targets: [cudaTarget] });
    await software.checkKernels(compiled);
    const device = await software.createSoftwareCuda("never");
    await device.load(artifactOf(compiled), ["forward"]);
    const [first, ...others] = await companies(compiled, device);
    for (const other of others) expect([...other]).toEqual([...first!]);
    await device.close();
  },
);
