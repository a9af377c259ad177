/**
 * The CUDA device: one GPU through the driver API. Kernels are compiled for it when an artifact is
 * loaded (see cuda-images.ts). Everything it does is queued on a stream, memory included (cuda-queue.ts),
 * and nothing blocks Node: what waits asks the stream again and again until it is done.
 */
import { setImmediate, setTimeout } from "node:timers/promises";
import type {
  ArtifactFiles,
  Device,
  DeviceBuffer,
  HostTensor,
  LaunchSizes,
  QueuedDevice,
} from "../device.ts";
import { gridPoints, scalarOf, shapeOf } from "../device.ts";
import { elementsOf, newData } from "../dtype.ts";
import { type IntraValues, intraKey, kernelsBeside } from "../intra.ts";
import type { Dtype, FormCode, FormSpec, KernelSpec, Manifest, SegmentLaunch } from "../plan.ts";
import {
  type SegmentTokens,
  columnsOf,
  launchSegments,
  segmentLength,
  summariesOf,
} from "../segments.ts";
import { uploadCuts, withShares } from "../shares.ts";
import { imageOf } from "./cuda-images.ts";
import { type Cuda, type CudaLibraries, openCuda } from "./cuda-library.ts";
import { TensorMaps, wordsToWhole } from "./cuda-maps.ts";
import { type CudaBuffer, CudaQueue, pointerOf } from "./cuda-queue.ts";
import { ownOf } from "../records.ts";

export interface CudaOptions {
  /** Which GPU, counted from 0. */
  readonly ordinal?: number;
  /** In place of it: which of this host's ranks it is for. They share out the GPUs, in order and again from 0. */
  readonly localRank?: number;
  /** Fill new memory with NaN, so that what was never written shows. */
  readonly poison?: boolean;
  readonly libraries?: CudaLibraries;
  /** Tokens of the segments that sequences are cut into; "auto": where that is faster. */
  readonly segment?: SegmentTokens;
}

/** What the kernels need: conversions to bf16 came with it. */
const lowestCapability = 80;
/** Blocks along x, and what 32-bit counters of the kernels hold. */
const largestCount = 2 ** 31 - 1;

/** Throws an Error that names what is missing: koffi, the driver, NVRTC or a GPU new enough. */
export async function createCudaDevice(options: CudaOptions = {}): Promise<Device> {
  return new CudaDevice(await openCuda(options.libraries), options);
}

class CudaDevice implements QueuedDevice {
  readonly kind = "cuda";
  readonly description: string;
  private readonly cuda: Cuda;
  private readonly device: number;
  private readonly capability: number;
  private readonly mostShared: number;
  private readonly processors: number;
  private readonly segment: SegmentTokens;
  private readonly context: bigint;
  readonly queues: { readonly compute: CudaQueue; readonly transfer: CudaQueue };
  private readonly maps: TensorMaps;
  private readonly functions = new Map<string, bigint>();
  private readonly modules: bigint[] = [];
  private readonly buffers = new Set<CudaBuffer>();
  private readonly uploading = new Set<HostTensor>();
  /** What stands for the cuts of packed sequences where there are none. */
  private dense: DeviceBuffer | null = null;
  private forms: ReadonlyMap<string, FormCode> = new Map();
  private manifest: Manifest | null = null;
  private isClosed = false;

  constructor(cuda: Cuda, options: CudaOptions) {
    const { driver } = cuda;
    this.cuda = cuda;
    this.device = openGpu(cuda, options);
    const attribute = (which: number) =>
      driver.number(
        "cuDeviceGetAttribute(_Out_ int *value, int which, int device)",
        which,
        this.device,
      );
    // The compute capability's major and minor number are attributes 75 and 76.
    this.capability = attribute(75) * 10 + attribute(76);
    // Attribute 97: shared memory of a block that asks for more than the usual 48 KiB.
    this.mostShared = attribute(97);
    // Attribute 16: multiprocessors.
    this.processors = attribute(16);
    this.segment = options.segment ?? "auto";
    const name = new Uint8Array(new ArrayBuffer(256));
    driver.call("cuDeviceGetName(void *name, int length, int device)", name, 256, this.device);
    const model = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    this.description = `cuda: ${model} (sm_${this.capability})`;
    if (this.capability < lowestCapability) {
      throw new Error(
        `the cuda device needs sm_${lowestCapability} or newer, not ${model}'s sm_${this.capability}`,
      );
    }
    this.maps = new TensorMaps(cuda, this.capability);
    this.context = driver.handle(
      "cuDevicePrimaryCtxRetain(_Out_ uint64_t *context, int device)",
      this.device,
    );
    const { buffers } = this;
    const memory = { use: () => this.use(), buffers, poison: options.poison ?? false };
    this.queues = { compute: new CudaQueue(memory), transfer: new CudaQueue(memory) };
  }

  /** Makes the calls that follow, up to the next await, about this GPU. */
  private use(): Cuda["driver"] {
    if (this.isClosed) throw new Error("the cuda device was used after it was closed");
    this.cuda.driver.call("cuCtxSetCurrent(uint64_t context)", this.context);
    return this.cuda.driver;
  }

  async load(artifact: ArtifactFiles, forms?: readonly string[]): Promise<void> {
    this.dense = await uploadCuts(this);
    const code = artifact.manifest.targets.find((target) => target.target === "cuda");
    if (!code) throw new Error(`the artifact of ${artifact.manifest.name} has no code for cuda`);
    const { segments } = artifact.manifest;
    const wanted =
      forms && new Set(forms.flatMap((form) => [form, ...partsOf(ownOf(segments, form))]));
    const loaded = code.forms.filter(({ form }) => wanted?.has(form) ?? true);
    const kernels = loaded.flatMap((form) => form.kernels);
    const images = await Promise.all(
      kernels.map(({ file, entry }) => {
        const source = new TextDecoder().decode(artifact.read(file));
        return imageOf(source, entry, this.capability, this.cuda.nvrtc);
      }),
    );
    const driver = this.use();
    kernels.forEach(({ entry, dynamicShared, sharedBytes }, i) => {
      const module = driver.handle(
        "cuModuleLoadData(_Out_ uint64_t *module, void *image)",
        images[i],
      );
      this.modules.push(module);
      const prototype =
        "cuModuleGetFunction(_Out_ uint64_t *function, uint64_t module, const char *name)";
      const loaded = driver.handle(prototype, module, entry);
      this.functions.set(entry, loaded);
      if (!dynamicShared) return;
      if (sharedBytes > this.mostShared) {
        throw new Error(
          `${entry} needs ${sharedBytes} bytes of shared memory a block, more than this GPU's ${this.mostShared}: compile with --arch`,
        );
      }
      // Attribute 8: how much may be given at launch.
      driver.call(
        "cuFuncSetAttribute(uint64_t function, int which, int value)",
        loaded,
        8,
        sharedBytes,
      );
    });
    this.forms = new Map(loaded.map((form) => [form.form, form]));
    this.manifest = artifact.manifest;
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer> {
    return this.queues.compute.alloc(dtype, shape, zero);
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    const pointer = pointerOf(buffer);
    const [wanted, given] = [describe(buffer.spec), describe(tensor)];
    if (wanted !== given)
      throw new Error(`a tensor of ${given} does not fit a buffer of ${wanted}`);
    if (buffer.sizeBytes === 0) return;
    this.use().call(
      "cuMemcpyHtoDAsync_v2(uint64_t to, void *from, size_t bytes, uint64_t stream)",
      pointer,
      tensor.data,
      buffer.sizeBytes,
      this.queues.compute.stream,
    );
    // Its memory must stay, and stay as it is, until the GPU has it.
    this.uploading.add(tensor);
    await this.waitOn(this.queues.compute).finally(() => this.uploading.delete(tensor));
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    // The copy itself would block until everything before it is done.
    await this.waitOn(this.queues.compute);
    const { spec, sizeBytes } = buffer;
    const data = newData(spec.dtype, elementsOf(spec.shape));
    if (sizeBytes > 0) {
      this.use().call(
        "cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, uint64_t stream)",
        data,
        pointerOf(buffer),
        sizeBytes,
        this.queues.compute.stream,
      );
      await this.waitOn(this.queues.compute);
    }
    return { dtype: spec.dtype, shape: spec.shape, data };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.forms.get(form.name);
    if (!code) throw new Error(`no form ${form.name} for cuda is loaded`);
    const length = this.segmentLength(code, sizes);
    if (length !== null) {
      return launchSegments(this.manifest!, form, args, sizes, length, {
        alloc: (dtype, shape) => this.queues.compute.alloc(dtype, shape, false),
        view: (buffer, shape) => this.view(buffer, shape),
        launch: (...own) => this.launchWhole(...own),
        free: (buffer) => this.free(buffer),
      });
    }
    const intra: IntraValues = new Map();
    await this.launchWhole(form, args, sizes, intra);
    for (const buffer of intra.values()) this.free(buffer);
  }

  /** Tokens of the segments to cut sequences into, or null. */
  private segmentLength({ form, kernels }: FormCode, sizes: LaunchSizes): number | null {
    const launches = ownOf(this.manifest!.segments, form);
    if (!launches || this.segment === "never") return null;
    if (this.segment !== "auto") return sizes.T > this.segment ? this.segment : null;
    const { processors } = this;
    const work = { processors, columns: columnsOf(kernels), summaries: summariesOf(launches) };
    return segmentLength(sizes, work);
  }

  private view(buffer: DeviceBuffer, shape: readonly number[]): CudaBuffer {
    const { spec, sizeBytes } = buffer;
    return { spec: { dtype: spec.dtype, shape }, sizeBytes, pointer: pointerOf(buffer) };
  }

  private async launchWhole(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
    intra: IntraValues,
    part?: SegmentLaunch["part"],
  ): Promise<void> {
    const code = this.forms.get(form.name)!;
    for (const spec of [...form.inputs, ...form.outputs]) {
      const buffer = args.get(spec.name);
      if (!buffer) throw new Error(`${form.name} needs ${spec.name}, which was not given`);
      const wanted = describe({ dtype: spec.dtype, shape: shapeOf(spec, sizes) });
      const given = describe(buffer.spec);
      if (wanted !== given) {
        throw new Error(`${form.name} needs ${spec.name} as ${wanted}, not ${given}`);
      }
    }
    await withShares(this, form, code, args, sizes, this.dense!, async (bound) =>
      this.runForm(code, bound, sizes, intra, part),
    );
  }

  private runForm(
    code: FormCode,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
    intra: IntraValues,
    part: SegmentLaunch["part"],
  ): void {
    const buffers = new Map(args);
    const known = new Set<string>();
    const own: DeviceBuffer[] = [];
    for (const work of code.workspaces) {
      const key = intraKey(work);
      if (part === "intra" && key === null) continue;
      const kept = key === null ? undefined : intra.get(key);
      const H = sizes.H * (ownOf(code.shares, work.name) ?? 1);
      const shape = shapeOf(work, { ...sizes, H });
      const buffer = kept ?? this.queues.compute.alloc(work.dtype, shape, false);
      buffers.set(work.name, buffer);
      if (key === null) own.push(buffer);
      else intra.set(key, buffer);
      if (kept) known.add(work.name);
    }
    for (const kernel of kernelsBeside(code, known, part)) {
      this.launchKernel(kernel, buffers, sizes);
    }
    for (const buffer of own) this.free(buffer);
  }

  private launchKernel(
    kernel: KernelSpec,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): void {
    const points = gridPoints(kernel, sizes);
    if (points === 0) return;
    if (points > largestCount || sizes.T_total > largestCount) {
      throw new Error(
        `${kernel.entry}: ${points} blocks, ${sizes.T_total} tokens: too many for cuda`,
      );
    }
    const pointers = kernel.buffers.map(({ name }) => pointerOf(buffers.get(name)!));
    const maps = (kernel.maps ?? []).map(({ buffer, rows }) =>
      this.maps.of(buffers.get(buffer)!, rows),
    );
    const scalars = kernel.scalars.map((name) => BigInt(scalarOf(name, sizes)));
    this.use().call(
      "cuLaunchKernel(uint64_t function, unsigned int gx, unsigned int gy, unsigned int gz, " +
        "unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared, uint64_t stream, " +
        "void *args, uint64_t extra)",
      this.functions.get(kernel.entry)!,
      points,
      1,
      1,
      kernel.threads,
      1,
      1,
      kernel.dynamicShared ? kernel.sharedBytes : 0,
      this.queues.compute.stream,
      this.argumentBlock([...pointers, ...maps, ...scalars]),
      0,
    );
  }

  /**
   * What cuLaunchKernel takes: an address for each argument, here of the values behind the addresses, each from a whole
   * 64 bytes on. Of each the driver reads as many bytes as the kernel declares; integers are little-endian.
   */
  private argumentBlock(values: readonly (bigint | BigUint64Array)[]): BigUint64Array {
    const slots = values.map((value) => (typeof value === "bigint" ? 8 : value.length));
    const size = slots.reduce((sum, slot) => sum + slot, values.length + 7);
    const words = new BigUint64Array(new ArrayBuffer(8 * size));
    const address = this.cuda.addressOf(words);
    let at = values.length + wordsToWhole(address + BigInt(8 * values.length));
    values.forEach((value, i) => {
      words[i] = address + BigInt(8 * at);
      words.set(typeof value === "bigint" ? [value] : value, at);
      at += slots[i]!;
    });
    return words;
  }

  async wait(): Promise<void> {
    for (const queue of Object.values(this.queues)) await this.waitOn(queue);
  }

  /** Errors of kernels show here: the driver tells them to whoever asks next. */
  private async waitOn(queue: CudaQueue): Promise<void> {
    for (let asked = 0; !queue.isDone(); asked++) {
      // A short kernel is waited for closely, a long one without keeping a processor busy.
      await (asked < 1000 ? setImmediate() : setTimeout(1));
    }
  }

  free(buffer: DeviceBuffer): void {
    this.queues.compute.free(buffer);
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    try {
      for (const buffer of this.buffers) this.free(buffer);
      await this.wait();
      const driver = this.use();
      for (const module of this.modules) driver.call("cuModuleUnload(uint64_t module)", module);
      for (const queue of Object.values(this.queues)) queue.close();
    } finally {
      // After a kernel's failure nothing above works; the context is let go all the same.
      this.cuda.driver.call("cuDevicePrimaryCtxRelease_v2(int device)", this.device);
      this.isClosed = true;
    }
  }
}

/** The driver's handle of a GPU; throws when there is none. */
function openGpu({ driver }: Cuda, { ordinal: named, localRank = 0 }: CudaOptions): number {
  try {
    driver.call("cuInit(unsigned int flags)", 0);
  } catch (error) {
    throw new Error(`the cuda device found no GPU (${(error as Error).message})`, { cause: error });
  }
  const count = driver.number("cuDeviceGetCount(_Out_ int *count)");
  const ordinal = named ?? (count > 0 ? localRank % count : 0);
  if (ordinal >= count) {
    throw new Error(`there is no GPU ${ordinal}: this machine has ${count}, counted from 0`);
  }
  return driver.number("cuDeviceGet(_Out_ int *device, int ordinal)", ordinal);
}

/** Forms that are launched for a form by segments. */
function partsOf(launches: readonly SegmentLaunch[] = []): string[] {
  return launches.map(({ form }) => form);
}

/** "bf16[1, 64, 8, 128]" */
function describe({ dtype, shape }: { dtype: Dtype; shape: readonly number[] }): string {
  return `${dtype}[${shape.join(", ")}]`;
}
