/**
 * The CPU device: native code, made from the artifact's LLVM IR by the LLVM tools of this machine (see
 * cpu-library.ts). Grid points are spread over threads, each with its own scratch memory. Tensors lie in
 * memory outside of JavaScript, given back as soon as they are freed.
 */
import { availableParallelism, cpus } from "node:os";
import type { ArtifactFiles, Device, DeviceBuffer, HostTensor, LaunchSizes } from "../device.ts";
import { gridPoints, scalarOf, shapeOf } from "../device.ts";
import { bytesOf, elementsOf } from "../dtype.ts";
import type { Dtype, FormCode, FormSpec, KernelSpec, TensorSpec } from "../plan.ts";
import { uploadCuts, withShares } from "../shares.ts";
import { missingPeer } from "./peers.ts";
import { type Tools, findTools, nativeLibrary } from "./cpu-library.ts";

export interface CpuOptions {
  /** Threads to spread grid points over; all cores when not given. */
  readonly threads?: number;
  /** Fill new memory with NaN, so that what was never written shows. */
  readonly poison?: boolean;
  /** The processor to make code for, as llc names it ("haswell"); this machine's when not given. */
  readonly cpu?: string;
}

/** Throws an Error that names what is missing: koffi, a tool of LLVM, or a C compiler. */
export async function createCpuDevice(options: CpuOptions = {}): Promise<Device> {
  const koffi = await loadKoffi();
  const tools = await findTools();
  return new CpuDevice(koffi, tools, options);
}

/** koffi, as far as it is used here. */
interface Koffi {
  load(path: string | null): Library;
  address(value: unknown): bigint;
  view(pointer: bigint, sizeBytes: number): ArrayBuffer;
}
interface Library {
  func(prototype: string): NativeFunction;
  symbol(name: string): unknown;
}
type NativeFunction = ((...args: unknown[]) => unknown) & {
  async: (...args: unknown[]) => void;
};

async function loadKoffi(): Promise<Koffi> {
  try {
    // @ts-ignore: an optional peer, not there for everybody.
    return (await import("koffi")).default as Koffi;
  } catch (error) {
    throw missingPeer("the cpu device", "koffi", error);
  }
}

interface CpuBuffer extends DeviceBuffer {
  /** null once it is freed. */
  address: bigint | null;
}

/** Cache lines, and the widest vectors, are aligned to this many bytes. */
const alignBytes = 64;

/** Large buffers lie in huge pages where the system gives them: madvise(2), MADV_HUGEPAGE. */
const hugePageBytes = 2 ** 21;
const hugePageAdvice = 14;

class CpuDevice implements Device {
  readonly kind = "cpu";
  readonly description: string;
  private readonly threads: number;
  private readonly entries = new Map<string, bigint>();
  private run: NativeFunction | null = null;
  /** What stands for the cuts of packed sequences where there are none. */
  private dense: DeviceBuffer | null = null;
  private forms: ReadonlyMap<string, FormCode> = new Map();
  private readonly buffers = new Set<CpuBuffer>();
  private queue: Promise<void> = Promise.resolve();
  private readonly koffi: Koffi;
  private readonly tools: Tools;
  private readonly options: CpuOptions;
  private readonly allocate: NativeFunction;
  private readonly release: NativeFunction;
  /** Linux only: what memory is used for. */
  private readonly advise: NativeFunction | null = null;

  constructor(koffi: Koffi, tools: Tools, options: CpuOptions) {
    this.koffi = koffi;
    this.tools = tools;
    this.options = options;
    this.threads = Math.max(1, options.threads ?? availableParallelism());
    const plural = this.threads === 1 ? "" : "s";
    const model = cpus()[0]?.model.trim() ?? "unknown";
    this.description = `cpu: ${this.threads} thread${plural}, ${model}`;
    const system = koffi.load(null);
    this.allocate = system.func("uint64_t aligned_alloc(size_t alignment, size_t size)");
    this.release = system.func("void free(uint64_t pointer)");
    if (process.platform === "linux") {
      this.advise = system.func("int madvise(uint64_t pointer, size_t size, int advice)");
    }
  }

  async load(artifact: ArtifactFiles): Promise<void> {
    this.dense = await uploadCuts(this);
    const code = artifact.manifest.targets.find((target) => target.target === "cpu");
    if (!code) throw new Error(`the artifact of ${artifact.manifest.name} has no code for the cpu`);
    const kernels = code.forms.flatMap((form) => form.kernels);
    const paths = new Set([...kernels.map((kernel) => kernel.file), ...code.files]);
    const sources = [...paths].map((path) => artifact.read(path));
    const cpu = this.options.cpu ?? "native";
    const library = await nativeLibrary(sources, this.tools, cpu, (path) => this.koffi.load(path));
    for (const { entry } of kernels) {
      this.entries.set(entry, this.koffi.address(library.symbol(entry)));
    }
    this.run = library.func("void laspc_run(uint64_t job, uint64_t tasks, int64_t n)");
    this.forms = new Map(code.forms.map((form) => [form.form, form]));
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer> {
    return this.newBuffer(dtype, shape, zero);
  }

  private newBuffer(dtype: Dtype, shape: readonly number[], zero: boolean): CpuBuffer {
    const sizeBytes = bytesOf(dtype, shape);
    const address = this.take(sizeBytes);
    const buffer: CpuBuffer = { spec: { dtype, shape }, sizeBytes, address };
    this.buffers.add(buffer);
    if (zero) this.contents(buffer).fill(0);
    else if (this.options.poison) this.contents(buffer).fill(dtype === "f32" ? NaN : 0x7fff);
    return buffer;
  }

  /** The address of at least `sizeBytes` bytes of new memory. */
  private take(sizeBytes: number): bigint {
    const align = sizeBytes >= hugePageBytes ? hugePageBytes : alignBytes;
    const whole = Math.max(1, Math.ceil(sizeBytes / align)) * align;
    const address = BigInt(this.allocate(align, whole) as number | bigint);
    if (address === 0n) throw new Error(`the cpu device found no ${whole} bytes of memory`);
    // Streams of small pages stop the processor's prefetching at every page's end.
    if (align === hugePageBytes) this.advise?.(address, whole, hugePageAdvice);
    return address;
  }

  /** A buffer's numbers, or their bits. Not to be kept: free ends it. */
  private contents(buffer: CpuBuffer): Float32Array | Uint16Array {
    const { dtype, shape } = buffer.spec;
    const isF32 = dtype === "f32";
    if (buffer.sizeBytes === 0) return isF32 ? new Float32Array() : new Uint16Array();
    const memory = this.koffi.view(this.addressOf(buffer), buffer.sizeBytes);
    const length = elementsOf(shape);
    return isF32 ? new Float32Array(memory, 0, length) : new Uint16Array(memory, 0, length);
  }

  private addressOf(buffer: CpuBuffer): bigint {
    if (buffer.address === null) throw new Error("a buffer was used after it was freed");
    return buffer.address;
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    await this.queue;
    const contents = this.contents(buffer as CpuBuffer);
    if (contents.length !== tensor.data.length || buffer.spec.dtype !== tensor.dtype) {
      const [to, from] = [buffer.spec, tensor].map(describe);
      throw new Error(`a tensor of ${from} does not fit a buffer of ${to}`);
    }
    contents.set(tensor.data);
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    await this.queue;
    const { dtype, shape } = buffer.spec;
    return { dtype, shape, data: this.contents(buffer as CpuBuffer).slice() };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.forms.get(form.name);
    if (!code) throw new Error(`the artifact has no form ${form.name} for the cpu`);
    for (const spec of [...form.inputs, ...form.outputs]) {
      checkArgument(form.name, spec, args.get(spec.name), sizes);
    }
    return withShares(this, form, code, args, sizes, this.dense!, (bound) => {
      const done = this.queue.then(() => this.runForm(code, bound, sizes));
      this.queue = done;
      return done;
    });
  }

  private async runForm(
    code: FormCode,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const buffers = new Map(args as ReadonlyMap<string, CpuBuffer>);
    const workspaces = code.workspaces.map((work) => {
      const buffer = this.newBuffer(work.dtype, shapeOf(work, sizes), false);
      buffers.set(work.name, buffer);
      return buffer;
    });
    try {
      for (const kernel of code.kernels) await this.runKernel(kernel, buffers, sizes);
    } finally {
      for (const buffer of workspaces) this.free(buffer);
    }
  }

  private async runKernel(
    kernel: KernelSpec,
    buffers: ReadonlyMap<string, CpuBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const points = gridPoints(kernel, sizes);
    if (points === 0) return;
    const address = (words: BigUint64Array) => this.koffi.address(words);
    const pointers = words(kernel.buffers.map(({ name }) => this.addressOf(buffers.get(name)!)));
    const scalars = words(kernel.scalars.map((name) => BigInt(scalarOf(name, sizes))));
    const entry = this.entries.get(kernel.entry)!;
    const job = words([entry, address(pointers), address(scalars), BigInt(points), 0n]);
    const threads = Math.min(this.threads, points);
    const scratches = Array.from({ length: threads }, () => this.take(kernel.sharedBytes));
    const tasks = words(scratches.flatMap((scratch) => [address(job), scratch, 0n, 0n]));
    // The callback names what the native code works in, so that it stays until then.
    const inUse = [pointers, scalars, job, tasks];
    await new Promise<void>((resolve, reject) => {
      this.run!.async(address(job), address(tasks), threads, (error: Error | null) => {
        if (error) reject(error);
        else resolve(void inUse.length);
      });
    }).finally(() => scratches.forEach((scratch) => this.release(scratch)));
  }

  async wait(): Promise<void> {
    await this.queue;
  }

  /** Memory that a launch still uses must not be freed: wait for it first. */
  free(buffer: DeviceBuffer): void {
    const own = buffer as CpuBuffer;
    if (own.address === null) return;
    this.release(own.address);
    own.address = null;
    this.buffers.delete(own);
  }

  async close(): Promise<void> {
    await this.queue.catch(() => {});
    for (const buffer of this.buffers) this.free(buffer);
  }
}

/** On memory of their own: short typed arrays may lie in the heap, where a collection moves them. */
function words(values: readonly bigint[]): BigUint64Array {
  const array = new BigUint64Array(new ArrayBuffer(values.length * 8));
  array.set(values);
  return array;
}

function describe({ dtype, shape }: { readonly dtype: Dtype; readonly shape: readonly number[] }) {
  return `${dtype}[${shape.join(", ")}]`;
}

/** Native code trusts sizes; so a wrong one is found here. */
function checkArgument(
  form: string,
  spec: TensorSpec,
  buffer: DeviceBuffer | undefined,
  sizes: LaunchSizes,
): void {
  if (!buffer) throw new Error(`${form} needs ${spec.name}, which was not given`);
  const wanted = describe({ dtype: spec.dtype, shape: shapeOf(spec, sizes) });
  const given = describe(buffer.spec);
  if (wanted !== given) throw new Error(`${form} needs ${spec.name} as ${wanted}, not ${given}`);
}
