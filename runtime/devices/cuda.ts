/**
 * The CUDA device: koffi on libcuda and NVRTC. Kernels are compiled for the GPU at hand when an
 * artifact is loaded, and kept by content; launches go to one stream, in order.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import type { ArtifactFiles, Device, DeviceBuffer, HostTensor, LaunchSizes } from "../device.ts";
import { gridPoints, scalarOf, shapeOf } from "../device.ts";
import { bytesOf, elementsOf, newData } from "../dtype.ts";
import type { Dtype, FormCode, FormSpec, KernelSpec } from "../plan.ts";

export interface CudaOptions {
  /** Which GPU, counted from 0. */
  readonly ordinal?: number;
  /** Fill new memory with NaN, so that what was never written shows. */
  readonly poison?: boolean;
}

interface CudaBuffer extends DeviceBuffer {
  readonly pointer: bigint;
}

type Native = (...args: unknown[]) => unknown;
interface Koffi {
  load(path: string): { func(prototype: string): Native };
  address(value: unknown): bigint;
}

/** Throws an Error that names what is missing: koffi, the driver, NVRTC or a GPU. */
export async function createCudaDevice(options: CudaOptions = {}): Promise<Device> {
  const koffi = await loadKoffi();
  const driver = open(koffi, "the CUDA driver", ["libcuda.so.1", "libcuda.so", "nvcuda.dll"]);
  const nvrtc = open(koffi, "NVRTC", nvrtcNames());
  return new CudaDevice(koffi, new Driver(driver), new Nvrtc(nvrtc), options);
}

async function loadKoffi(): Promise<Koffi> {
  try {
    // @ts-ignore: an optional peer, not there for everybody.
    return (await import("koffi")).default as Koffi;
  } catch {
    throw new Error("the cuda device needs the package koffi; install it with `npm install koffi`");
  }
}

function nvrtcNames(): string[] {
  const names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
  const homes = [process.env["CUDA_HOME"], "/usr/local/cuda"].filter((home) => home !== undefined);
  return [...names, ...homes.flatMap((home) => names.map((name) => `${home}/lib64/${name}`))];
}

function open(koffi: Koffi, what: string, names: readonly string[]) {
  for (const name of names) {
    try {
      return koffi.load(name);
    } catch {
      // The next name may be there.
    }
  }
  throw new Error(
    `the cuda device needs ${what}: none of ${names.slice(0, 3).join(", ")} was found`,
  );
}

type Library = ReturnType<Koffi["load"]>;

/** The driver API, each call checked. */
class Driver {
  private readonly calls = new Map<string, Native>();
  private readonly library: Library;

  constructor(library: Library) {
    this.library = library;
  }

  call(prototype: string, ...args: unknown[]): void {
    const name = /(\w+)\(/.exec(prototype)![1]!;
    let native = this.calls.get(name);
    if (!native) {
      native = this.library.func(`int ${prototype}`);
      this.calls.set(name, native);
    }
    const result = native(...args) as number;
    if (result !== 0) throw new Error(`cuda: ${name} failed with error ${result}`);
  }
}

class Nvrtc {
  private readonly library: Library;

  constructor(library: Library) {
    this.library = library;
  }

  /** CUDA C++ to a cubin for `arch` ("sm_90"). Throws an Error with the compiler's log. */
  compile(source: string, name: string, arch: string): Uint8Array {
    const f = (prototype: string) => this.library.func(`int ${prototype}`);
    const handle = word();
    const text = cString(source);
    const create = f(
      "nvrtcCreateProgram(void *program, void *source, void *name, int n, uint64_t headers, uint64_t names)",
    );
    check(create(handle, text, cString(`${name}.cu`), 0, 0n, 0n), "nvrtcCreateProgram");
    const options = [cString(`--gpu-architecture=${arch}`), cString("--std=c++17")];
    const compile = f("nvrtcCompileProgram(uint64_t program, int n, void *options)");
    const failed = compile(handle[0], options.length, pointers(this.addressOf, options)) as number;
    if (failed !== 0) throw new Error(`${name}: ${this.log(handle[0]!)}`);
    const size = word();
    check(
      f("nvrtcGetCUBINSize(uint64_t program, void *size)")(handle[0], size),
      "nvrtcGetCUBINSize",
    );
    const cubin = new Uint8Array(new ArrayBuffer(Number(size[0])));
    check(f("nvrtcGetCUBIN(uint64_t program, void *cubin)")(handle[0], cubin), "nvrtcGetCUBIN");
    f("nvrtcDestroyProgram(void *program)")(handle);
    return cubin;
  }

  addressOf: (value: unknown) => bigint = () => 0n;

  private log(program: bigint): string {
    const size = word();
    this.library.func("int nvrtcGetProgramLogSize(uint64_t program, void *size)")(program, size);
    const log = new Uint8Array(new ArrayBuffer(Math.max(64, Number(size[0]))));
    this.library.func("int nvrtcGetProgramLog(uint64_t program, void *log)")(program, log);
    return new TextDecoder().decode(log).replace(/\0+$/, "");
  }
}

function check(result: unknown, name: string): void {
  if (result !== 0) throw new Error(`cuda: ${name} failed with error ${String(result)}`);
}

/** Memory of its own for one 64-bit number: short typed arrays may move in the heap. */
function word(value = 0n): BigUint64Array {
  const array = new BigUint64Array(new ArrayBuffer(128)).subarray(0, 1);
  array[0] = value;
  return array;
}

function cString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const terminated = new Uint8Array(new ArrayBuffer(Math.max(128, bytes.length + 1)));
  terminated.set(bytes);
  return terminated;
}

function pointers(address: (value: unknown) => bigint, values: readonly unknown[]): BigUint64Array {
  const array = new BigUint64Array(new ArrayBuffer(Math.max(128, values.length * 8)));
  values.forEach((value, i) => (array[i] = address(value)));
  return array;
}

class CudaDevice implements Device {
  readonly kind = "cuda";
  readonly description: string;
  private readonly arch: string;
  private readonly context: bigint;
  private readonly stream: bigint;
  private readonly functions = new Map<string, bigint>();
  private readonly modules: bigint[] = [];
  private forms: ReadonlyMap<string, FormCode> = new Map();
  private readonly koffi: Koffi;
  private readonly driver: Driver;
  private readonly nvrtc: Nvrtc;
  private readonly poison: boolean;

  constructor(koffi: Koffi, driver: Driver, nvrtc: Nvrtc, options: CudaOptions) {
    this.koffi = koffi;
    this.driver = driver;
    this.nvrtc = nvrtc;
    this.nvrtc.addressOf = (value) => koffi.address(value);
    this.poison = options.poison ?? false;
    driver.call("cuInit(unsigned int flags)", 0);
    const device = new Int32Array(new ArrayBuffer(128));
    driver.call("cuDeviceGet(void *device, int ordinal)", device, options.ordinal ?? 0);
    const attribute = (which: number): number => {
      const value = new Int32Array(new ArrayBuffer(128));
      driver.call(
        "cuDeviceGetAttribute(void *value, int attribute, int device)",
        value,
        which,
        device[0],
      );
      return value[0]!;
    };
    // Compute capability, major and minor: attributes 75 and 76.
    this.arch = `sm_${attribute(75)}${attribute(76)}`;
    const name = new Uint8Array(new ArrayBuffer(256));
    driver.call("cuDeviceGetName(void *name, int length, int device)", name, 256, device[0]);
    this.description = `cuda: ${new TextDecoder().decode(name).replace(/\0.*$/s, "")} (${this.arch})`;
    const context = word();
    driver.call("cuDevicePrimaryCtxRetain(void *context, int device)", context, device[0]);
    this.context = context[0]!;
    this.use();
    const stream = word();
    driver.call("cuStreamCreate(void *stream, unsigned int flags)", stream, 1);
    this.stream = stream[0]!;
  }

  private use(): void {
    this.driver.call("cuCtxSetCurrent(uint64_t context)", this.context);
  }

  async load(artifact: ArtifactFiles): Promise<void> {
    const code = artifact.manifest.targets.find((target) => target.target === "cuda");
    if (!code) throw new Error(`the artifact of ${artifact.manifest.name} has no code for cuda`);
    this.forms = new Map(code.forms.map((form) => [form.form, form]));
    this.use();
    for (const spec of code.forms.flatMap((form) => form.kernels)) {
      const cubin = await this.cubin(
        new TextDecoder().decode(artifact.read(spec.file)),
        spec.entry,
      );
      const module = word();
      this.driver.call("cuModuleLoadData(void *module, void *image)", module, cubin);
      this.modules.push(module[0]!);
      const fn = word();
      this.driver.call(
        "cuModuleGetFunction(void *fn, uint64_t module, void *name)",
        fn,
        module[0],
        cString(spec.entry),
      );
      this.functions.set(spec.entry, fn[0]!);
    }
  }

  /** The compiled kernel, from the cache when this source was compiled for this GPU before. */
  private async cubin(source: string, entry: string): Promise<Uint8Array> {
    const key = createHash("sha256").update(source).update(this.arch).update("1").digest("hex");
    const base = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
    const folder = join(base, "laspc");
    const path = join(folder, `${key.slice(0, 32)}.cubin`);
    const known = await readFile(path).catch(() => null);
    if (known) return new Uint8Array(known);
    const cubin = this.nvrtc.compile(source, entry, this.arch);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const staged = `${path}.${randomUUID()}`;
    await writeFile(staged, cubin, { mode: 0o600 });
    await rename(staged, path);
    return cubin;
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer> {
    const sizeBytes = bytesOf(dtype, shape);
    const pointer = word();
    this.use();
    const rounded = Math.max(16, Math.ceil(sizeBytes / 16) * 16);
    this.driver.call("cuMemAlloc_v2(void *pointer, size_t bytes)", pointer, rounded);
    const value = zero ? 0 : 0x7fff7fff;
    if (zero || this.poison) {
      this.driver.call(
        "cuMemsetD32Async(uint64_t pointer, unsigned int value, size_t n, uint64_t stream)",
        pointer[0],
        value,
        rounded / 4,
        this.stream,
      );
    }
    const buffer: CudaBuffer = { spec: { dtype, shape }, sizeBytes, pointer: pointer[0]! };
    return buffer;
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    await this.wait();
    const { pointer, sizeBytes } = buffer as CudaBuffer;
    if (sizeBytes === 0) return;
    this.driver.call(
      "cuMemcpyHtoD_v2(uint64_t to, void *from, size_t bytes)",
      pointer,
      tensor.data,
      sizeBytes,
    );
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    await this.wait();
    const { spec, pointer, sizeBytes } = buffer as CudaBuffer;
    const data = newData(spec.dtype, elementsOf(spec.shape));
    if (sizeBytes > 0) {
      this.driver.call(
        "cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes)",
        data,
        pointer,
        sizeBytes,
      );
    }
    return { dtype: spec.dtype, shape: spec.shape, data };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.forms.get(form.name);
    if (!code) throw new Error(`the artifact has no form ${form.name} for cuda`);
    const buffers = new Map(args);
    const work: DeviceBuffer[] = [];
    for (const spec of code.workspaces) {
      const buffer = await this.alloc(spec.dtype, shapeOf(spec, sizes), false);
      buffers.set(spec.name, buffer);
      work.push(buffer);
    }
    for (const kernel of code.kernels) this.launchKernel(kernel, buffers, sizes);
    if (work.length === 0) return;
    await this.wait();
    for (const buffer of work) this.free(buffer);
  }

  private launchKernel(
    kernel: KernelSpec,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): void {
    const points = gridPoints(kernel, sizes);
    if (points === 0) return;
    // Each argument in a slot of its own; the driver reads as many bytes of it as the kernel takes.
    const slots = new BigUint64Array(
      new ArrayBuffer(Math.max(128, (kernel.buffers.length + kernel.scalars.length) * 8)),
    );
    kernel.buffers.forEach(({ name }, i) => {
      slots[i] = (buffers.get(name) as CudaBuffer).pointer;
    });
    kernel.scalars.forEach((name, i) => {
      slots[kernel.buffers.length + i] = BigInt(scalarOf(name, sizes));
    });
    const base = this.koffi.address(slots);
    const addresses = new BigUint64Array(new ArrayBuffer(Math.max(128, slots.byteLength)));
    addresses.forEach((_, i) => (addresses[i] = base + BigInt(8 * i)));
    this.use();
    this.driver.call(
      "cuLaunchKernel(uint64_t fn, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, " +
        "unsigned int by, unsigned int bz, unsigned int shared, uint64_t stream, void *args, uint64_t extra)",
      this.functions.get(kernel.entry)!,
      points,
      1,
      1,
      kernel.threads,
      1,
      1,
      0,
      this.stream,
      addresses,
      0n,
    );
  }

  async wait(): Promise<void> {
    this.use();
    this.driver.call("cuStreamSynchronize(uint64_t stream)", this.stream);
  }

  free(buffer: DeviceBuffer): void {
    this.use();
    this.driver.call("cuMemFree_v2(uint64_t pointer)", (buffer as CudaBuffer).pointer);
  }

  async close(): Promise<void> {
    await this.wait();
    for (const module of this.modules) this.driver.call("cuModuleUnload(uint64_t module)", module);
    this.driver.call("cuStreamDestroy_v2(uint64_t stream)", this.stream);
  }
}
