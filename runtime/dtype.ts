/** Storage dtypes: sizes, and conversion of f16 and bf16 bits to and from numbers. */
import type { Dtype } from "./plan.ts";

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

export function elementBytes(dtype: Dtype): number {
  return dtype === "f32" ? 4 : 2;
}

export function bytesOf(dtype: Dtype, shape: readonly number[]): number {
  return elementsOf(shape) * elementBytes(dtype);
}

/** Zeroed memory; f16 and bf16 are held as raw bits. Never inside the moving heap. */
export function newData(dtype: Dtype, length: number): Float32Array | Uint16Array {
  const memory = new ArrayBuffer(length * elementBytes(dtype));
  return dtype === "f32" ? new Float32Array(memory) : new Uint16Array(memory);
}

const scratch = new DataView(new ArrayBuffer(4));

/** The 16 bits of a number rounded to nearest even. */
export function toBits(dtype: "f16" | "bf16", value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if (dtype === "bf16") {
    if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
    return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
  }
  const sign = (bits >>> 16) & 0x8000;
  if (Number.isNaN(value)) return sign | 0x7e00;
  const magnitude = Math.abs(Math.fround(value));
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundEven(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  // log2 may round up to the next power just below it.
  const e = 2 ** exponent > magnitude ? exponent - 1 : exponent;
  return sign | (((e + 15) << 10) + roundEven((magnitude / 2 ** e - 1) * 1024));
}

function roundEven(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}

export function fromBits(dtype: "f16" | "bf16", bits: number): number {
  if (dtype === "bf16") {
    scratch.setUint32(0, bits << 16);
    return scratch.getFloat32(0);
  }
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Any stored data as float64. */
export function toNumbers(dtype: Dtype, data: Float32Array | Uint16Array): Float64Array {
  if (dtype === "f32") return Float64Array.from(data);
  return Float64Array.from(data, (bits) => fromBits(dtype, bits));
}

/** Numbers as stored data, each rounded to nearest even. */
export function fromNumbers(dtype: Dtype, numbers: ArrayLike<number>): Float32Array | Uint16Array {
  const data = newData(dtype, numbers.length);
  for (let i = 0; i < numbers.length; i++) {
    data[i] = dtype === "f32" ? numbers[i]! : toBits(dtype, numbers[i]!);
  }
  return data;
}
