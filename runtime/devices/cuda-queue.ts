/** Queues of a GPU: memory, copies and marks on a stream of its own. Nothing here waits on the host. */
import type { BufferRange, DeviceBuffer, DeviceQueue, Mark } from "../device.ts";
import { bytesOf } from "../dtype.ts";
import type { Dtype } from "../plan.ts";
import type { CudaDriver } from "./cuda-library.ts";

export interface CudaBuffer extends DeviceBuffer {
  /** null once it is freed. */
  pointer: bigint | null;
}

/** What the queues of a GPU share. */
export interface CudaMemory {
  /** The driver, for calls about this GPU up to the next await. */
  readonly use: () => CudaDriver;
  /** All that is not freed yet. */
  readonly buffers: Set<CudaBuffer>;
  /** Fill new memory with NaN. */
  readonly poison: boolean;
}

/** Two NaNs of 16 bits, and one of 32. */
const nanPattern = 0x7fff7fff;

export class CudaQueue implements DeviceQueue {
  readonly stream: bigint;
  private readonly memory: CudaMemory;
  private readonly marks = new Set<CudaMark>();

  constructor(memory: CudaMemory) {
    this.memory = memory;
    // 1: does not wait for the default stream, which is not ours.
    const prototype = "cuStreamCreate(_Out_ uint64_t *stream, unsigned int flags)";
    this.stream = memory.use().handle(prototype, 1);
  }

  /** Makes the calls that follow, up to the next await, about this queue's GPU. */
  use(): CudaDriver {
    return this.memory.use();
  }

  alloc(dtype: Dtype, shape: readonly number[], zero: boolean): CudaBuffer {
    const sizeBytes = bytesOf(dtype, shape);
    const words = Math.max(1, Math.ceil(sizeBytes / 4));
    const driver = this.use();
    const pointer = driver.handle(
      "cuMemAllocAsync(_Out_ uint64_t *pointer, size_t bytes, uint64_t stream)",
      words * 4,
      this.stream,
    );
    const buffer: CudaBuffer = { spec: { dtype, shape }, sizeBytes, pointer };
    this.memory.buffers.add(buffer);
    if (zero || this.memory.poison) {
      driver.call(
        "cuMemsetD32Async(uint64_t pointer, unsigned int value, size_t count, uint64_t stream)",
        pointer,
        zero ? 0 : nanPattern,
        words,
        this.stream,
      );
    }
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const own = buffer as CudaBuffer;
    const pointer = pointerOf(own);
    own.pointer = null;
    this.memory.buffers.delete(own);
    this.use().call("cuMemFreeAsync(uint64_t pointer, uint64_t stream)", pointer, this.stream);
  }

  copy(from: BufferRange, to: BufferRange): void {
    if (from.sizeBytes !== to.sizeBytes) {
      throw new Error(`${from.sizeBytes} bytes do not fit ${to.sizeBytes}`);
    }
    if (from.sizeBytes === 0) return;
    this.use().call(
      "cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, uint64_t stream)",
      addressOf(to),
      addressOf(from),
      from.sizeBytes,
      this.stream,
    );
  }

  mark(): Mark {
    const mark = new CudaMark(this, () => this.marks.delete(mark));
    this.marks.add(mark);
    return mark;
  }

  waitFor(mark: Mark): void {
    this.use().call(
      "cuStreamWaitEvent(uint64_t stream, uint64_t event, unsigned int flags)",
      this.stream,
      (mark as CudaMark).event,
      0,
    );
  }

  /** Has everything on it finished? Throws when something failed. */
  isDone(): boolean {
    return this.use().isDone("cuStreamQuery(uint64_t stream)", this.stream);
  }

  close(): void {
    for (const mark of this.marks) mark.release();
    this.use().call("cuStreamDestroy_v2(uint64_t stream)", this.stream);
  }
}

class CudaMark implements Mark {
  readonly event: bigint;
  private readonly queue: CudaQueue;
  private readonly forget: () => void;

  constructor(queue: CudaQueue, forget: () => void) {
    this.queue = queue;
    this.forget = forget;
    const driver = queue.use();
    // 2: nobody asks it for the time.
    const prototype = "cuEventCreate(_Out_ uint64_t *event, unsigned int flags)";
    this.event = driver.handle(prototype, 2);
    driver.call("cuEventRecord(uint64_t event, uint64_t stream)", this.event, queue.stream);
  }

  isDone(): boolean {
    return this.queue.use().isDone("cuEventQuery(uint64_t event)", this.event);
  }

  release(): void {
    this.forget();
    this.queue.use().call("cuEventDestroy_v2(uint64_t event)", this.event);
  }
}

export function pointerOf(buffer: DeviceBuffer): bigint {
  const { pointer } = buffer as CudaBuffer;
  if (pointer === null) throw new Error("a buffer was used after it was freed");
  return pointer;
}

/** Where the range begins. */
export function addressOf({ buffer, offsetBytes }: BufferRange): bigint {
  return pointerOf(buffer) + BigInt(offsetBytes);
}
