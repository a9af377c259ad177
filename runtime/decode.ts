/** Decoding: a prefill over the first tokens, then the form `step` for each token after them. */
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "./device.ts";
import { shapeOf } from "./device.ts";
import { elementsOf, newData } from "./dtype.ts";
import type { FormSpec, Manifest } from "./plan.ts";
import { cutAxis, joinAxis } from "./mesh.ts";

export interface DecodeRun {
  readonly manifest: Manifest;
  readonly device: Device;
  /** Whole tensors; states not given start at zero. */
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
  /** Tokens at the end that are decoded one by one. */
  readonly steps: number;
}

/** Whole outputs and final states, as one long forward gives them. */
export async function decode(run: DecodeRun): Promise<Map<string, HostTensor>> {
  const { manifest, sizes, steps } = run;
  const first = Math.max(0, sizes.T - steps);
  const cuts = [
    [0, first],
    ...Array.from({ length: sizes.T - first }, (_, i) => [first + i, first + i + 1]),
  ];
  let states = new Map<string, HostTensor>();
  const parts = new Map<string, HostTensor[]>(manifest.outputs.map(({ name }) => [name, []]));
  for (const [i, [from, to]] of (cuts as [number, number][]).entries()) {
    const form = manifest.forms.find(({ name }) => name === (i === 0 ? "forward" : "step"));
    if (!form) throw new Error("this attention has no step: every token needs the whole sequence");
    const own = { ...sizes, T: to - from, token_offset: from };
    const inputs = new Map(
      form.inputs.flatMap((spec): [string, HostTensor][] => {
        const given = states.get(spec.name) ?? run.inputs.get(spec.name);
        if (!given) return [];
        return [[spec.name, spec.per === "token" ? cutAxis(given, 1, from, to) : given]];
      }),
    );
    const outputs = await launch(run.device, form, inputs, own);
    for (const [name, list] of parts) list.push(outputs.get(name)!);
    states = new Map(
      manifest.states.map(({ name }) => [`initial_${name}`, outputs.get(`final_${name}`)!]),
    );
  }
  const tensors = new Map<string, HostTensor>();
  for (const spec of manifest.outputs) {
    tensors.set(spec.name, joinAxis(parts.get(spec.name)!, 1));
  }
  for (const { name } of manifest.states)
    tensors.set(`final_${name}`, states.get(`initial_${name}`)!);
  return tensors;
}

async function launch(
  device: Device,
  form: FormSpec,
  inputs: ReadonlyMap<string, HostTensor>,
  sizes: LaunchSizes,
): Promise<Map<string, HostTensor>> {
  const args = new Map<string, DeviceBuffer>();
  for (const spec of form.inputs) {
    const shape = shapeOf(spec, sizes);
    const given = inputs.get(spec.name);
    const data = given?.data ?? newData(spec.dtype, elementsOf(shape));
    const buffer = await device.alloc(spec.dtype, shape, false);
    await device.upload(buffer, { dtype: spec.dtype, shape, data });
    args.set(spec.name, buffer);
  }
  for (const spec of form.outputs) {
    args.set(spec.name, await device.alloc(spec.dtype, shapeOf(spec, sizes), false));
  }
  await device.launch(form, args, sizes);
  await device.wait();
  const outputs = new Map<string, HostTensor>();
  for (const { name } of form.outputs) outputs.set(name, await device.download(args.get(name)!));
  for (const buffer of args.values()) device.free(buffer);
  return outputs;
}
