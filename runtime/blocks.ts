/** Blocks of the rows of states: where they lie in a buffer, and their numbers on the host. */
import type { BufferRange, Device, DeviceBuffer, HostTensor } from "./device.ts";
import { bytesOf, elementsOf, newData } from "./dtype.ts";
import { cutAxis, cutOf } from "./mesh.ts";
import type { Dtype, Part } from "./plan.ts";

/** A block of the rows of a state [B, H, ...]: which, and its shape as those of one sequence. */
export function rowsOf([batch, heads, ...dims]: readonly number[], { index, of }: Part) {
  const { from, to } = cutOf(batch! * heads!, index, of);
  return { from, to, shape: [1, to - from, ...dims] };
}

/** The bytes of a buffer, or those of a block of its rows. */
export function rangeOf(buffer: DeviceBuffer, part?: Part): BufferRange {
  if (part === undefined) return { buffer, offsetBytes: 0, sizeBytes: buffer.sizeBytes };
  const { dtype, shape } = buffer.spec;
  const rows = rowsOf(shape, part);
  const row = bytesOf(dtype, shape.slice(2));
  return { buffer, offsetBytes: rows.from * row, sizeBytes: (rows.to - rows.from) * row };
}

/** A buffer's numbers, or those of a block of its rows. */
export async function readBlock(
  device: Device,
  buffer: DeviceBuffer,
  part?: Part,
): Promise<HostTensor> {
  const tensor = await device.download(buffer);
  if (part === undefined) return tensor;
  const { from, to, shape } = rowsOf(tensor.shape, part);
  const rows = cutAxis(
    { ...tensor, shape: [tensor.shape[0]! * tensor.shape[1]!, ...shape.slice(2)] },
    0,
    from,
    to,
  );
  return { ...rows, shape };
}

export async function writeBlock(
  device: Device,
  buffer: DeviceBuffer,
  tensor: HostTensor,
  part?: Part,
): Promise<void> {
  if (part === undefined) return device.upload(buffer, tensor);
  const whole = await device.download(buffer);
  whole.data.set(tensor.data, rowsOf(whole.shape, part).from * elementsOf(whole.shape.slice(2)));
  return device.upload(buffer, whole);
}

export function bytesIn({ data }: HostTensor): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** A new tensor and its bytes. */
export function newBytes(dtype: Dtype, shape: readonly number[]): [HostTensor, Uint8Array] {
  const data = newData(dtype, elementsOf(shape));
  return [{ dtype, shape, data }, new Uint8Array(data.buffer)];
}
