/**
 * What a launch needs beside its tensors: the cuts of packed sequences, and memory for outputs that are
 * sums: over the heads of a group, over the batch, over everything. Kernels write one
 * share for each sequence and head; here the shares get memory of their own and are added up.
 */
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "./device.ts";
import { checkCuts, cutsName, cutsTensor } from "./device.ts";
import { elementsOf, fromNumbers, toNumbers } from "./dtype.ts";
import type { FormCode, FormSpec, TensorSpec } from "./plan.ts";
import { ownOf } from "./records.ts";

/** to[o, i] = sum over a, g of from[a, o, g, i]. */
export interface Sum {
  readonly batch: number;
  readonly outer: number;
  readonly group: number;
  readonly inner: number;
}

/** How an output is summed up from its shares, so many of each head, or null: kernels write it as it is. */
export function sumOf(spec: TensorSpec, sizes: LaunchSizes, shares = 1): Sum | null {
  const { B, T, heads, cuSeqlens } = sizes;
  const own = ownOf(heads, spec.headsOf ?? spec.name) ?? sizes.H;
  const H = sizes.H * shares;
  const inner = elementsOf(spec.dims);
  const sums: Partial<Record<TensorSpec["per"], Sum>> = {
    token: { batch: 1, outer: (cuSeqlens ? 1 : B) * T * own, group: H / own, inner },
    head: { batch: B, outer: own, group: H / own, inner },
    shared: { batch: B * H, outer: 1, group: 1, inner },
  };
  const sum = sums[spec.per] ?? null;
  return sum === null || sum.batch * sum.group === 1 ? null : sum;
}

/** The cuts on the device; without any, what stands in their place: made once, when a device loads. */
export async function uploadCuts(
  device: Device,
  sizes: Pick<LaunchSizes, "cuSeqlens"> = {},
): Promise<DeviceBuffer> {
  const cuts = cutsTensor(sizes);
  const buffer = await device.alloc(cuts.dtype, cuts.shape, false);
  await device.upload(buffer, cuts);
  return buffer;
}

/** Runs `launch` with memory for the shares in place of such outputs, then adds them up. */
export async function withShares(
  device: Device,
  form: FormSpec,
  code: FormCode,
  args: ReadonlyMap<string, DeviceBuffer>,
  sizes: LaunchSizes,
  dense: DeviceBuffer,
  launch: (args: ReadonlyMap<string, DeviceBuffer>) => Promise<void>,
): Promise<void> {
  if (form.name === "step" && sizes.T !== 1) {
    throw new Error(`step takes one token at a time, not ${sizes.T}`);
  }
  checkCuts(sizes);
  const bound = new Map(args);
  // Without cuts and sums nothing is waited for, so that launches keep the order they came in.
  const cuts = sizes.cuSeqlens ? await uploadCuts(device, sizes) : dense;
  bound.set(cutsName, cuts);
  const shares: { sum: Sum; from: DeviceBuffer; to: DeviceBuffer }[] = [];
  for (const spec of form.outputs) {
    const ofHead = ownOf(code.shares, spec.name) ?? 1;
    const sum = sumOf(spec, sizes, ofHead);
    if (sum === null) continue;
    const { B, T, cuSeqlens } = sizes;
    const H = sizes.H * ofHead;
    const rows = cuSeqlens ? 1 : B;
    const shape = spec.per === "token" ? [rows, T, H, ...spec.dims] : [B, H, ...spec.dims];
    const from = await device.alloc(spec.dtype, shape, false);
    shares.push({ sum, from, to: args.get(spec.name)! });
    bound.set(spec.name, from);
  }
  await launch(bound);
  if (cuts !== dense) device.free(cuts);
  for (const { sum, from, to } of shares) {
    await device.upload(to, addUp(await device.download(from), sum, to.spec.shape));
    device.free(from);
  }
}

function addUp(shares: HostTensor, { batch, outer, group, inner }: Sum, shape: readonly number[]) {
  const from = toNumbers(shares.dtype, shares.data);
  const sums = new Float64Array(outer * inner);
  let at = 0;
  for (let a = 0; a < batch; a++) {
    for (let o = 0; o < outer; o++) {
      for (let g = 0; g < group; g++) {
        for (let i = 0; i < inner; i++) sums[o * inner + i]! += from[at++]!;
      }
    }
  }
  const data = fromNumbers(shares.dtype, sums);
  return { dtype: shares.dtype, shape, data };
}
