/** Gradients of a sequence in two ranges: `summary_bwd`, `fold` and `backward` compose as the forwards do. */
import { expect, test } from "vitest";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import { rmseRatio, gradients } from "../compiler/tolerance.ts";
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "../runtime/device.ts";
import { shapeOf } from "../runtime/device.ts";
import { elementsOf, newData, toNumbers } from "../runtime/dtype.ts";
import { type Manifest, formGiving } from "../runtime/plan.ts";
import { cutAxis } from "../runtime/mesh.ts";
import { findDevice } from "./support/devices.ts";
import {
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  sizesOf,
} from "./support/examples.ts";

const { available, why } = findDevice("cpu");

type Tensors = ReadonlyMap<string, HostTensor>;

/** Launches one form; what is not given is zero. */
async function launch(
  { forms }: Manifest,
  device: Device,
  name: string,
  given: Tensors,
  sizes: LaunchSizes,
): Promise<Map<string, HostTensor>> {
  const form = forms.find((one) => one.name === name)!;
  const buffers = new Map<string, DeviceBuffer>();
  for (const spec of [...form.inputs, ...form.outputs]) {
    const shape = shapeOf(spec, sizes);
    const zero = { dtype: spec.dtype, shape, data: newData(spec.dtype, elementsOf(shape)) };
    const buffer = await device.alloc(spec.dtype, shape, false);
    if (form.inputs.includes(spec)) await device.upload(buffer, given.get(spec.name) ?? zero);
    buffers.set(spec.name, buffer);
  }
  await device.launch(form, buffers, sizes);
  const results = new Map<string, HostTensor>();
  for (const { name: output } of form.outputs) {
    results.set(output, await device.download(buffers.get(output)!));
  }
  for (const buffer of buffers.values()) device.free(buffer);
  return results;
}

function renamed(tensors: Tensors, from: string, to: string): [string, HostTensor][] {
  return [...tensors].flatMap(([name, tensor]) =>
    name.startsWith(from) ? [[name.replace(from, to), tensor] as [string, HostTensor]] : [],
  );
}

test.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, async (name) => {
  const targets = await targetsFor(["cpu"]);
  const compiled = compileExample(name, { dims: { K: 16, V: 20 }, targets, backward: true });
  const { manifest } = compiled;
  const { states } = manifest;
  const isChain = states.every((state) => state.causal && !state.reverse);
  const hasSummary = manifest.forms.some((form) => form.name === "summary_bwd");
  expect(hasSummary).toBe(states.length > 0);
  // Matrices travel in the tests of schedules.
  if (!hasSummary || !isChain || states.some(({ dense }) => dense)) return;
  const device = await openDevice("cpu", compiled, { threads: null, poison: true });
  const run = (form: string, given: Tensors, sizes: LaunchSizes) =>
    launch(manifest, device, form, given, sizes);
  const sizes = sizesOf({ T: 100 });
  const cut = 37;
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const perToken = new Set(
    manifest.forms.flatMap((form) =>
      form.inputs.filter((spec) => spec.per === "token").map((spec) => spec.name),
    ),
  );
  const range = (from: number, to: number) => ({
    sizes: { ...sizes, T: to - from, token_offset: from },
    inputs: new Map(
      [...inputs].map(([key, tensor]) => [
        key,
        perToken.has(key) ? cutAxis(tensor, 1, from, to) : tensor,
      ]),
    ),
  });
  const [early, late] = [range(0, cut), range(cut, 100)];
  const forward = await run("forward", early.inputs, early.sizes);
  const between = new Map([...late.inputs, ...renamed(forward, "final_", "initial_")]);
  // The later range ends the sequence, so that the cotangents of all levels reach it at once.
  const [added, decays] = [new Map<string, HostTensor>(), new Map<string, HostTensor>()];
  for (const { name: S, logDecay } of states) {
    const known = async (tensor: string, into: Map<string, HostTensor>) => {
      const form = formGiving(manifest, tensor)!;
      for (const [key, found] of await run(form.name, between, late.sizes)) into.set(key, found);
    };
    await known(`d_summary_${S}`, added);
    if (logDecay !== null) await known(logDecay, decays);
  }
  const fold = new Map([
    ...renamed(inputs, "d_final_", "initial_"),
    ...renamed(added, "d_summary_", "summary_"),
    ...renamed(decays, "decay_", "decay_"),
  ]);
  const folded = new Map<string, HostTensor>();
  for (const { name: S } of states) {
    for (const [key, tensor] of await run(`fold_${S}`, fold, sizes)) folded.set(key, tensor);
  }
  const middle = new Map([...early.inputs, ...renamed(folded, "final_", "d_final_")]);
  const own = await run("backward", middle, early.sizes);
  const whole = await run("backward", inputs, sizes);
  for (const [output, tensor] of whole) {
    const spec = manifest.forms.find((form) => form.name === "backward")!.outputs;
    const { per } = spec.find((one) => one.name === output)!;
    // Of what ranges share both have a part.
    if (per !== "token" && per !== "state") continue;
    const exact = per === "token" ? cutAxis(tensor, 1, 0, cut) : tensor;
    const found = own.get(output)!;
    const [a, b] = [exact, found].map((one) => toNumbers(one.dtype, one.data));
    expect(rmseRatio(a!, b!), output).toBeLessThan(gradients.f32);
  }
  await device.close();
});
