/** The interface of everything that computes. A device runs forms of one artifact. */
import type { Dtype, FormSpec, KernelSpec, Manifest, Step, TensorSpec } from "./plan.ts";
import { ownOf } from "./records.ts";

/** A tensor in host memory. f16 and bf16 are held as their 16 raw bits. Row-major, contiguous. */
export interface HostTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: Float32Array | Uint16Array;
}

/** Run-time integers of a launch; `heads` gives each token and head tensor's own head count. */
export interface LaunchSizes {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly T_total: number;
  readonly token_offset: number;
  readonly heads: Readonly<Record<string, number>>;
  /**
   * Packed sequences: where each begins in the one token axis, and where the last one ends. Token tensors
   * are [1, T, heads, ...] then, B is the number of sequences, states are [B, H, ...].
   */
  readonly cuSeqlens?: readonly number[];
}

/** What every launch of a kernel that can serve packed sequences is given: their cuts, or two zeros. */
export const cutsName = "cu_seqlens";

/** The cuts as 32-bit integers, carried as the raw bits of a tensor. */
export function cutsTensor({ cuSeqlens }: Pick<LaunchSizes, "cuSeqlens">): HostTensor {
  const cuts = Int32Array.from(cuSeqlens ?? [0, 0]);
  return { dtype: "f32", shape: [cuts.length], data: new Float32Array(cuts.buffer) };
}

/** Throws on cuts that do not divide T tokens into B sequences. */
export function checkCuts({ B, T, cuSeqlens }: LaunchSizes): void {
  if (cuSeqlens === undefined) return;
  const isSorted = cuSeqlens.every(
    (cut, i) => Number.isInteger(cut) && cut >= (cuSeqlens[i - 1] ?? 0),
  );
  if (!isSorted || cuSeqlens[0] !== 0) {
    throw new Error(`cu_seqlens begins with 0 and never falls, unlike ${cuSeqlens.join(", ")}`);
  }
  if (cuSeqlens.length !== B + 1 || cuSeqlens.at(-1) !== T) {
    throw new Error(
      `cu_seqlens has ${cuSeqlens.length} cuts up to ${cuSeqlens.at(-1)}; ${B} sequences of ${T} tokens in all need ${B + 1} up to ${T}`,
    );
  }
}

/** Device memory holding one tensor. Opaque; only the device that made it may use it. */
export interface DeviceBuffer {
  readonly spec: { readonly dtype: Dtype; readonly shape: readonly number[] };
  readonly sizeBytes: number;
}

/** The files of an artifact by path; text or bytes. How they are stored is the caller's business. */
export interface ArtifactFiles {
  readonly manifest: Manifest;
  readonly read: (path: string) => Uint8Array;
}

export interface Device {
  /** "cpu", "webgpu", "cuda" or "reference", as `--device` says it. */
  readonly kind: string;
  /** One line about what it is: "cpu: 2 threads", "webgpu: SwiftShader". */
  readonly description: string;
  /**
   * Prepares the kernels of the artifact's part for this device: at least those of `forms`, where what will be
   * launched is known; compiling the others may take longer than to run these. Called once, before any launch.
   */
  load(artifact: ArtifactFiles, forms?: readonly string[]): Promise<void>;
  /** New memory, zeroed when `zero`; undefined content otherwise (NaN when the device poisons). */
  alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer>;
  upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void>;
  download(buffer: DeviceBuffer): Promise<HostTensor>;
  /** Queues a form; ordered after everything queued before it on this device. */
  launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void>;
  /** Resolves when everything queued has finished. */
  wait(): Promise<void>;
  free(buffer: DeviceBuffer): void;
  /** Gives everything back; the device is unusable afterwards. */
  close(): Promise<void>;
}

/** Bytes of a buffer that lie side by side. */
export interface BufferRange {
  readonly buffer: DeviceBuffer;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** A point of a queue: done when everything queued before it is. */
export interface Mark {
  /** Throws when something before it failed. */
  isDone(): boolean;
  /** Gives it back; what was told to wait for it still does. */
  release(): void;
}

/** Work of a device that happens in order, beside that of its other queues. No call waits for the device. */
export interface DeviceQueue {
  alloc(dtype: Dtype, shape: readonly number[], zero: boolean): DeviceBuffer;
  free(buffer: DeviceBuffer): void;
  /** Ranges of one size. */
  copy(from: BufferRange, to: BufferRange): void;
  mark(): Mark;
  /** What is queued from now on begins when the mark is done. */
  waitFor(mark: Mark): void;
}

/** A device with a queue for each stream of a plan. Its own methods use the compute queue. */
export interface QueuedDevice extends Device {
  readonly queues: Readonly<Record<Step["stream"], DeviceQueue>>;
}

export function isQueued(device: Device): device is QueuedDevice {
  return "queues" in device;
}

/** The whole shape of a tensor for given run-time sizes. */
export function shapeOf(spec: TensorSpec, sizes: LaunchSizes): number[] {
  const heads = ownOf(sizes.heads, spec.headsOf ?? spec.name) ?? sizes.H;
  switch (spec.per) {
    case "token":
      return [sizes.cuSeqlens ? 1 : sizes.B, sizes.T, heads, ...spec.dims];
    case "head":
      return [heads, ...spec.dims];
    case "shared":
      return [...spec.dims];
    case "state":
      return [sizes.B, sizes.H, ...spec.dims];
    case "chunk":
      if (sizes.cuSeqlens) {
        return [1, Math.floor(sizes.T / spec.chunk!) + sizes.B, sizes.H, ...spec.dims];
      }
      return [sizes.B, Math.ceil(sizes.T / spec.chunk!), sizes.H, ...spec.dims];
  }
}

/** Grid points of a kernel for given run-time sizes. */
export function gridPoints(kernel: KernelSpec, sizes: LaunchSizes): number {
  return gridShape(kernel, sizes).reduce((product, size) => product * size, 1);
}

/** Sizes of the kernel's grid axes: batch x heads first. */
export function gridShape(kernel: KernelSpec, sizes: LaunchSizes): number[] {
  const chunk = kernel.packedChunk;
  if (chunk !== undefined && sizes.cuSeqlens) {
    const { B, T, H } = sizes;
    const others = kernel.grid.slice(1).filter(({ of }) => !of.includes("T"));
    const rest = gridShape({ ...kernel, packedChunk: undefined, grid: others }, sizes);
    return [H * (Math.floor(T / chunk) + B), ...rest];
  }
  return kernel.grid.map(({ of, by }) => {
    const product = of.reduce<number>(
      (p, factor) => p * (typeof factor === "number" ? factor : scalarOf(factor, sizes)),
      1,
    );
    return Math.ceil(product / by);
  });
}

/** A run-time integer by the name kernels know it by; `H_q` is the head count of `q`. */
export function scalarOf(name: string, sizes: LaunchSizes): number {
  switch (name) {
    case "B":
    case "T":
    case "H":
    case "T_total":
    case "token_offset":
      return sizes[name];
    case "packed":
      return sizes.cuSeqlens ? 1 : 0;
    default:
      return ownOf(sizes.heads, name.slice("H_".length)) ?? sizes.H;
  }
}
