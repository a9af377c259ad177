/**
 * NumPy's .npy files: float32 and float16, and bfloat16 as raw 16-bit ('<V2', as ml_dtypes writes it).
 * Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3.
 */
import type { HostTensor } from "./device.ts";
import { bytesOf, elementBytes, elementsOf, newData } from "./dtype.ts";
import type { Dtype } from "./plan.ts";

const magic = "\x93NUMPY";
const dtypes: ReadonlyMap<string, Dtype> = new Map([
  ["<f4", "f32"],
  ["<f2", "f16"],
  ["<V2", "bf16"],
  ["|V2", "bf16"],
]);
/** By version: where the text of the header begins, and how its length is written before it. */
const versions: ReadonlyMap<string, number> = new Map([
  ["1.0", 10],
  ["2.0", 12],
  ["3.0", 12],
]);
const longestHeader = 65536;
/** So many bytes, or the whole file, tell what the rest holds. */
export const npyHeadBytes = 12 + longestHeader;

export interface NpyLayout {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Where the data begins, which goes to the end. */
  readonly start: number;
}

/** Throws an Error that says what is wrong; sizes are checked against the file before memory is taken. */
export function readNpy(bytes: Uint8Array): HostTensor {
  const { dtype, shape, start } = npyLayout(bytes, bytes.length);
  return tensorFrom(dtype, shape, bytes.subarray(start));
}

/** What a file of `sizeBytes` holds that begins with `head`. Throws an Error that says what is wrong. */
export function npyLayout(head: Uint8Array, sizeBytes: number): NpyLayout {
  const text = (from: number, to: number) => String.fromCharCode(...head.subarray(from, to));
  if (head.length < 10 || text(0, 6) !== magic) throw new Error("this is not a .npy file");
  const version = `${head[6]}.${head[7]}`;
  const from = versions.get(version);
  if (from === undefined) throw new Error(`version ${version} of .npy is none of 1.0, 2.0, 3.0`);
  if (head.length < from) throw new Error("the file is truncated in its header");
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const length = from === 10 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (length > longestHeader) throw new Error(`a header of ${length} bytes is too long`);
  const start = from + length;
  if (start > head.length) throw new Error("the file is truncated in its header");
  const { dtype, shape } = parseHeader(text(from, start));
  checkBytes(dtype, shape, sizeBytes - start);
  return { dtype, shape, start };
}

/** The header is the text of a Python dict, which numpy writes with these keys in any order. */
function parseHeader(header: string): Pick<NpyLayout, "dtype" | "shape"> {
  const item = String.raw`'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([\d\s,-]*\))`;
  const isDict = new RegExp(String.raw`^\s*\{(\s*${item}\s*(,|(?=\})))*\s*\}\s*$`).test(header);
  const items = [...header.matchAll(new RegExp(item, "g"))];
  const fields = new Map(items.map(([, key, value]) => [key!, value!]));
  const descr = /^'(.*)'$/s.exec(fields.get("descr") ?? "")?.[1];
  const order = /^(True|False)$/.exec(fields.get("fortran_order") ?? "")?.[1];
  const shapeText = /^\((.*)\)$/s.exec(fields.get("shape") ?? "")?.[1];
  const isWhole = isDict && items.length === 3;
  if (!isWhole || descr === undefined || order === undefined || shapeText === undefined) {
    throw new Error("the header of the .npy file cannot be read");
  }
  if (order === "True") throw new Error("the array is in Fortran order; save it in C order");
  const dtype = dtypes.get(descr);
  if (!dtype) {
    throw new Error(`dtype ${descr} is not little-endian float32, float16 or bfloat16`);
  }
  return { dtype, shape: parseShape(shapeText) };
}

/** "", "5,", "2, 3" or "2, 3,": a Python tuple of one has a comma. */
function parseShape(text: string): number[] {
  if (text.trim() === "") return [];
  const isTuple = /^(\s*-?\d+\s*,)+(\s*-?\d+)?\s*$/.test(text);
  if (!isTuple) throw new Error("the shape of the .npy file cannot be read");
  const shape = text.split(",").flatMap((size) => (size.trim() === "" ? [] : [Number(size)]));
  checkShape(shape);
  return shape;
}

export function writeNpy(tensor: HostTensor): Uint8Array {
  const descr = { f32: "<f4", f16: "<f2", bf16: "<V2" }[tensor.dtype];
  const shape = `(${tensor.shape.join(", ")}${tensor.shape.length === 1 ? "," : ""})`;
  const head = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }`;
  // The data starts at a multiple of 64.
  const padded = `${head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11)}\n`;
  const prefix = Uint8Array.from(`${magic}\x01\x00`, (char) => char.charCodeAt(0));
  const body = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const out = new Uint8Array(10 + padded.length + body.length);
  out.set(prefix);
  new DataView(out.buffer).setUint16(8, padded.length, true);
  out.set(new TextEncoder().encode(padded), 10);
  out.set(body, 10 + padded.length);
  return out;
}

export function checkShape(shape: readonly number[]): void {
  const bad = shape.some((size) => !Number.isSafeInteger(size) || size < 0);
  if (bad || !Number.isSafeInteger(elementsOf(shape) * 4)) {
    throw new Error(`the shape [${shape.join(", ")}] is not possible`);
  }
}

/** Throws an Error unless a tensor has so many bytes. */
export function checkBytes(dtype: Dtype, shape: readonly number[], sizeBytes: number): void {
  const wanted = bytesOf(dtype, shape);
  if (sizeBytes === wanted) return;
  throw new Error(
    `the file holds ${sizeBytes} bytes of data, but shape [${shape.join(", ")}] of ` +
      `${elementBytes(dtype)}-byte numbers needs ${wanted}`,
  );
}

/** A tensor over a copy of exactly its bytes. */
export function tensorFrom(dtype: Dtype, shape: readonly number[], bytes: Uint8Array): HostTensor {
  checkBytes(dtype, shape, bytes.byteLength);
  const data = newData(dtype, elementsOf(shape));
  new Uint8Array(data.buffer).set(bytes);
  return { dtype, shape, data };
}
