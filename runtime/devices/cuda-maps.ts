/**
 * Tensor maps: what Hopper's copy engine is told of a tensor, 128 bytes that the driver makes from its address and
 * shape. Kernels take them by value, and before Hopper do not read them.
 */
import type { DeviceBuffer } from "../device.ts";
import { elementsOf } from "../dtype.ts";
import type { Cuda } from "./cuda-library.ts";
import { pointerOf } from "./cuda-queue.ts";

/** Words of 8 bytes. */
const mapWords = 16;
const noMap = new BigUint64Array(mapWords);
/** The first GPUs with a copy engine. */
const lowestCapability = 90;
/** Maps that are kept: memory is given out at the same addresses again and again. */
const mostKept = 4096;

export class TensorMaps {
  private readonly cuda: Cuda;
  private readonly isRead: boolean;
  private readonly known = new Map<string, BigUint64Array>();

  constructor(cuda: Cuda, capability: number) {
    this.cuda = cuda;
    this.isRead = capability >= lowestCapability;
  }

  /** Of tiles of so many rows, and of 64 columns a part; zeros where there is nothing to copy. */
  of(buffer: DeviceBuffer, rows: number): BigUint64Array {
    const { shape } = buffer.spec;
    if (!this.isRead || elementsOf(shape) === 0) return noMap;
    const address = pointerOf(buffer);
    const key = `${address} ${shape.join()} ${rows}`;
    let map = this.known.get(key);
    if (map === undefined) {
      map = this.encode(address, shape, rows);
      if (this.known.size === mostKept) this.known.delete(this.known.keys().next().value!);
      this.known.set(key, map);
    }
    return map;
  }

  private encode(address: bigint, shape: readonly number[], rows: number): BigUint64Array {
    const { dims, steps } = layoutOf(shape);
    const memory = new BigUint64Array(new ArrayBuffer(8 * (mapWords + 7)));
    const place = this.cuda.addressOf(memory);
    const first = wordsToWhole(place);
    this.cuda.driver.call(
      "cuTensorMapEncodeTiled(uint64_t map, int type, unsigned int rank, uint64_t address, void *dims, " +
        "void *strides, void *box, void *steps, int interleave, int swizzle, int promotion, int fill)",
      place + BigInt(8 * first),
      // CU_TENSOR_MAP_DATA_TYPE_UINT16
      1,
      dims.length,
      address,
      words64(dims),
      words64(steps.map((step) => 2 * step)),
      words32([64, rows, 1, 1]),
      words32([1, 1, 1, 1]),
      // Not interleaved, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, zeros outside of the tensor.
      0,
      3,
      3,
      0,
    );
    return memory.slice(first, first + mapWords);
  }
}

/** Words of 8 bytes from an address to the next whole 64 bytes, where the driver wants maps. */
export function wordsToWhole(address: bigint): number {
  return Number(-(address / 8n) & 7n);
}

/** As [outer, heads, rows, cols] the other way round; steps, in elements, of all but the columns. */
function layoutOf(shape: readonly number[]): { dims: number[]; steps: number[] } {
  if (shape.length === 4) {
    const [outer, rows, heads, cols] = shape as [number, number, number, number];
    return { dims: [cols, rows, heads, outer], steps: [heads * cols, cols, rows * heads * cols] };
  }
  const [outer, chunks, heads, rows, cols] = shape as [number, number, number, number, number];
  const steps = [cols, rows * cols, heads * rows * cols];
  return { dims: [cols, rows, heads, outer * chunks], steps };
}

// The driver is told where they lie: each has an ArrayBuffer of its own.
function words64(values: readonly number[]): BigUint64Array {
  const words = new BigUint64Array(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => (words[i] = BigInt(value)));
  return words;
}

function words32(values: readonly number[]): Uint32Array {
  const words = new Uint32Array(new ArrayBuffer(4 * values.length));
  words.set(values);
  return words;
}
