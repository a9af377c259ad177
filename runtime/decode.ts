/**
 * Decoding: a prefill over the first tokens, then the form `step` for each token after them.
 *
 * A step and a chunk of the forward add the same numbers in another order. Where tokens must have the same bits as in
 * one forward, a `deterministic` decode launches the forward again over the chunk that its token is in, from the state
 * that the chunk began with.
 */
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "./device.ts";
import { shapeOf } from "./device.ts";
import { elementsOf, newData } from "./dtype.ts";
import type { FormSpec, Manifest } from "./plan.ts";
import { cutAxis, joinAxis } from "./mesh.ts";
import { alignment } from "./segments.ts";

export interface DecodeRun {
  readonly manifest: Manifest;
  readonly device: Device;
  /** Whole tensors; states not given start at zero. */
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
  /** Tokens at the end that are decoded one by one. */
  readonly steps: number;
  /** Every token has the bits that one forward over all of them gives it, on a device that cuts no segments. */
  readonly deterministic?: boolean;
}

/** A launch over the tokens before `to`, from the state that stands before `from`; outputs count from `wanted`. */
interface Launch {
  readonly form: string;
  readonly from: number;
  readonly wanted: number;
  readonly to: number;
}

function launchesOf({ sizes: { T }, steps, deterministic }: DecodeRun): readonly Launch[] {
  const first = Math.max(0, T - steps);
  const tokens = Array.from({ length: T - first }, (_, i) => first + i);
  if (!deterministic) {
    const each = tokens.map((t) => ({ form: "step", from: t, wanted: t, to: t + 1 }));
    return [{ form: "forward", from: 0, wanted: 0, to: first }, ...each];
  }
  const startOf = (t: number) => t - (t % alignment);
  const form = "forward";
  return [
    { form, from: 0, wanted: 0, to: startOf(first) },
    { form, from: startOf(first), wanted: startOf(first), to: first },
    ...tokens.map((t) => ({ form, from: startOf(t), wanted: t, to: t + 1 })),
  ];
}

/** Whole outputs and final states, as one long forward gives them. */
export async function decode(run: DecodeRun): Promise<Map<string, HostTensor>> {
  const { manifest, sizes } = run;
  const parts = new Map<string, HostTensor[]>(manifest.outputs.map(({ name }) => [name, []]));
  // States by the token that they stand before; those of chunks are read more than once.
  const states = new Map<number, ReadonlyMap<string, HostTensor>>();
  for (const { form: name, from, wanted, to } of launchesOf(run)) {
    const form = manifest.forms.find((one) => one.name === name);
    if (!form) throw new Error("this attention has no step: every token needs the whole sequence");
    const own = { ...sizes, T: to - from, token_offset: from };
    const inputs = new Map(
      form.inputs.flatMap((spec): [string, HostTensor][] => {
        const given = states.get(from)?.get(spec.name) ?? run.inputs.get(spec.name);
        if (!given) return [];
        return [[spec.name, spec.per === "token" ? cutAxis(given, 1, from, to) : given]];
      }),
    );
    const outputs = await launch(run.device, form, inputs, own);
    for (const [output, list] of parts) {
      list.push(cutAxis(outputs.get(output)!, 1, wanted - from, to - from));
    }
    const left = manifest.states.map(
      (state) => [`initial_${state.name}`, outputs.get(`final_${state.name}`)!] as const,
    );
    if (to > from || !states.has(to)) states.set(to, new Map(left));
    for (const at of states.keys()) if (at < from) states.delete(at);
  }
  const tensors = new Map<string, HostTensor>();
  for (const spec of manifest.outputs) {
    tensors.set(spec.name, joinAxis(parts.get(spec.name)!, 1));
  }
  for (const { name } of manifest.states) {
    tensors.set(`final_${name}`, states.get(sizes.T)!.get(`initial_${name}`)!);
  }
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
