/** Safetensors files: named tensors, F32, F16 and BF16. Format: github.com/huggingface/safetensors. */
import type { HostTensor } from "./device.ts";
import type { Dtype } from "./plan.ts";
import { checkShape, tensorFrom } from "./npy.ts";

const dtypes: Readonly<Record<string, Dtype>> = { F32: "f32", F16: "f16", BF16: "bf16" };
const names: Readonly<Record<Dtype, string>> = { f32: "F32", f16: "F16", bf16: "BF16" };
/** The format's own limit on its header. */
const longestHeader = 100_000_000;

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** Throws an Error that says what is wrong; nothing is allocated that the file does not hold. */
export function readSafetensors(bytes: Uint8Array): Map<string, HostTensor> {
  if (bytes.length < 8) throw new Error("the file is too short to be a safetensors file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(longestHeader) || length > BigInt(bytes.length - 8)) {
    throw new Error(`the header claims ${length} bytes, but the file has ${bytes.length}`);
  }
  const start = 8 + Number(length);
  const header = parseHeader(new TextDecoder().decode(bytes.subarray(8, start)));
  const tensors = new Map<string, HostTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    try {
      tensors.set(name, readEntry(entry, bytes.subarray(start)));
    } catch (error) {
      throw new Error(`tensor ${JSON.stringify(name)}: ${(error as Error).message}`);
    }
  }
  return tensors;
}

function parseHeader(text: string): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch {
    throw new Error("the header of the safetensors file is not JSON");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new Error("the header of the safetensors file is not an object");
  }
  return header as Record<string, unknown>;
}

function readEntry(value: unknown, data: Uint8Array): HostTensor {
  const entry = value as Partial<Entry> | null;
  const offsets = entry?.data_offsets;
  if (typeof entry?.dtype !== "string" || !Array.isArray(entry.shape) || !Array.isArray(offsets)) {
    throw new Error("its entry lacks dtype, shape or data_offsets");
  }
  const dtype = Object.hasOwn(dtypes, entry.dtype) ? dtypes[entry.dtype] : undefined;
  if (!dtype) throw new Error(`dtype ${entry.dtype} is not F32, F16 or BF16`);
  checkShape(entry.shape as number[]);
  const [from, to] = offsets as [number, number];
  const valid = Number.isSafeInteger(from) && Number.isSafeInteger(to) && 0 <= from && from <= to;
  if (!valid || to > data.length)
    throw new Error(`its data [${from}, ${to}) lies outside the file`);
  return tensorFrom(dtype, entry.shape as number[], data.subarray(from, to));
}

export function writeSafetensors(tensors: ReadonlyMap<string, HostTensor>): Uint8Array {
  const header: [string, Entry][] = [];
  let offset = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    const end = offset + data.byteLength;
    header.push([name, { dtype: names[dtype], shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  // Any name may stand there, `__proto__` too: so not by assignment.
  const text = JSON.stringify(Object.fromEntries(header));
  const head = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
  const out = new Uint8Array(8 + head.length + offset);
  new DataView(out.buffer).setBigUint64(0, BigInt(head.length), true);
  out.set(head, 8);
  let at = 8 + head.length;
  for (const { data } of tensors.values()) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return out;
}
