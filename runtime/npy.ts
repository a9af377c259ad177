/**
 * NumPy's .npy files: float32 and float16, and bfloat16 as raw 16-bit ('<V2', as ml_dtypes writes it).
 * Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3.
 */
import type { HostTensor } from "./device.ts";
import { bytesOf, elementBytes, elementsOf, newData } from "./dtype.ts";
import type { Dtype } from "./plan.ts";

const magic = "\x93NUMPY";
const dtypes: Readonly<Record<string, Dtype>> = {
  "<f4": "f32",
  "<f2": "f16",
  "<V2": "bf16",
  "|V2": "bf16",
};

/** Throws an Error that says what is wrong; sizes are checked against the file before memory is taken. */
export function readNpy(bytes: Uint8Array): HostTensor {
  const text = (from: number, to: number) => String.fromCharCode(...bytes.subarray(from, to));
  if (bytes.length < 10 || text(0, 6) !== magic) throw new Error("this is not a .npy file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isLong = bytes[6]! >= 2;
  if (isLong && bytes.length < 12) throw new Error("the file is truncated in its header");
  const length = isLong ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (isLong ? 12 : 10) + length;
  if (length > 65536 || start > bytes.length)
    throw new Error("the file is truncated in its header");
  const header = text(start - length, start);
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(header)?.[1];
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(header)?.[1];
  const shapeText = /'shape'\s*:\s*\(([^)]*)\)/.exec(header)?.[1];
  if (descr === undefined || order === undefined || shapeText === undefined) {
    throw new Error("the header of the .npy file cannot be read");
  }
  if (order === "True") throw new Error("the array is in Fortran order; save it in C order");
  const dtype = dtypes[descr];
  if (!dtype) throw new Error(`dtype ${descr} is not float32, float16 or bfloat16`);
  const shape = shapeText.split(",").flatMap((part) => (part.trim() === "" ? [] : [Number(part)]));
  checkShape(shape);
  return tensorFrom(dtype, shape, bytes.subarray(start));
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

/** A tensor over a copy of exactly its bytes. */
export function tensorFrom(dtype: Dtype, shape: readonly number[], bytes: Uint8Array): HostTensor {
  const wanted = bytesOf(dtype, shape);
  if (bytes.byteLength !== wanted) {
    throw new Error(
      `the file holds ${bytes.byteLength} bytes of data, but shape [${shape.join(", ")}] of ` +
        `${elementBytes(dtype)}-byte numbers needs ${wanted}`,
    );
  }
  const data = newData(dtype, elementsOf(shape));
  new Uint8Array(data.buffer).set(bytes);
  return { dtype, shape, data };
}
