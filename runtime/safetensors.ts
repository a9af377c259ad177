/** Safetensors files: named tensors, F32, F16 and BF16. Format: github.com/huggingface/safetensors. */
import type { HostTensor } from "./device.ts";
import type { Dtype } from "./plan.ts";
import { checkBytes, checkShape, tensorFrom } from "./npy.ts";

const dtypes: ReadonlyMap<string, Dtype> = new Map([
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
]);
const names: Readonly<Record<Dtype, string>> = { f32: "F32", f16: "F16", bf16: "BF16" };
/** The format's own limit on its header. */
const longestHeader = 100_000_000;

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** Where a tensor lies: bytes of the file, from and up to but without. */
export interface TensorPlace {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly from: number;
  readonly to: number;
}

/** Throws an Error that says what is wrong; nothing is allocated that the file does not hold. */
export function readSafetensors(bytes: Uint8Array): Map<string, HostTensor> {
  const places = safetensorsLayout(bytes, bytes.length);
  return new Map(
    [...places].map(([name, { dtype, shape, from, to }]) => [
      name,
      tensorFrom(dtype, shape, bytes.subarray(from, to)),
    ]),
  );
}

/** Where the header ends, of a file of `sizeBytes` that begins with these 8 bytes or more. */
export function safetensorsHeadBytes(head: Uint8Array, sizeBytes: number): number {
  if (head.length < 8) throw new Error("the file is too short to be a safetensors file");
  const length = new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(longestHeader) || length > BigInt(sizeBytes - 8)) {
    throw new Error(`the header claims ${length} bytes, but the file has ${sizeBytes}`);
  }
  return 8 + Number(length);
}

/**
 * Where the tensors lie in a file of `sizeBytes` that begins with `head`, its header. As the format asks, they fill
 * the data without gap or overlap. Throws an Error that says what is wrong.
 */
export function safetensorsLayout(head: Uint8Array, sizeBytes: number): Map<string, TensorPlace> {
  const start = safetensorsHeadBytes(head, sizeBytes);
  const header = parseHeader(head.subarray(8, start));
  const places = new Map<string, TensorPlace>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    try {
      places.set(name, placeOf(entry, start, sizeBytes));
    } catch (error) {
      throw new Error(`tensor ${JSON.stringify(name)}: ${(error as Error).message}`);
    }
  }
  let end = start;
  for (const { from, to } of [...places.values()].sort((a, b) => a.from - b.from || a.to - b.to)) {
    if (from !== end) throw new Error(`tensors leave a gap or overlap at byte ${from} of the file`);
    end = to;
  }
  if (end !== sizeBytes) throw new Error(`${sizeBytes - end} bytes behind the last tensor`);
  return places;
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch {
    throw new Error("the header of the safetensors file is not JSON");
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new Error("the header of the safetensors file is not an object");
  }
  const repeated = repeatedKey(text);
  if (repeated !== null) throw new Error(`the header has ${repeated} twice`);
  return header as Record<string, unknown>;
}

/** A key that one object of a JSON text has twice, of which JSON.parse keeps the last; null: there is none. */
function repeatedKey(json: string): string | null {
  const objects: Set<string>[] = [];
  for (const [token, key] of json.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}]/g)) {
    if (token === "{") objects.push(new Set());
    else if (token === "}") objects.pop();
    else if (key !== undefined) {
      const name = JSON.stringify(JSON.parse(key));
      if (objects.at(-1)!.has(name)) return name;
      objects.at(-1)!.add(name);
    }
  }
  return null;
}

function placeOf(value: unknown, start: number, sizeBytes: number): TensorPlace {
  const entry = value as Partial<Entry> | null;
  const offsets = entry?.data_offsets;
  if (typeof entry?.dtype !== "string" || !Array.isArray(entry.shape) || !Array.isArray(offsets)) {
    throw new Error("its entry lacks dtype, shape or data_offsets");
  }
  const dtype = dtypes.get(entry.dtype);
  if (!dtype) throw new Error(`dtype ${entry.dtype} is not F32, F16 or BF16`);
  const shape = entry.shape as number[];
  checkShape(shape);
  const [from, to] = offsets as [number, number];
  const isRange = Number.isSafeInteger(from) && Number.isSafeInteger(to) && 0 <= from && from <= to;
  if (!isRange || offsets.length !== 2 || start + to > sizeBytes)
    throw new Error(`its data [${offsets.join(", ")}) lies outside the file`);
  checkBytes(dtype, shape, to - from);
  return { dtype, shape, from: start + from, to: start + to };
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
