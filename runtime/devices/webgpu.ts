/**
 * The WebGPU device: any GPUDevice, in a browser or from Dawn in Node (see dawn.ts). Launches are
 * queued; only downloads wait. Needs the default limits of WebGPU, and asks for larger buffers where
 * the adapter has them.
 */
import type { ArtifactFiles, Device, DeviceBuffer, HostTensor, LaunchSizes } from "../device.ts";
import { gridPoints, scalarOf, shapeOf } from "../device.ts";
import { bytesOf, elementsOf, newData } from "../dtype.ts";
import type { BufferArg, Dtype, FormCode, FormSpec, KernelSpec } from "../plan.ts";
import { uploadCuts, withShares } from "../shares.ts";

/** GPUDevice, where the caller's TypeScript knows it (@webgpu/types, or a DOM that has it). */
export type CallersGpu = typeof globalThis extends { GPUDevice: { prototype: infer Gpu } }
  ? Gpu
  : object;

export interface WebGpuOptions {
  /** The caller's own device; otherwise one is requested. */
  readonly gpu?: CallersGpu;
  /** Fill new memory with NaN, so that what was never written shows. */
  readonly poison?: boolean;
}

/** Flags of the WebGPU specification, which Node has no globals for. */
const usage = { mapRead: 1, copySrc: 4, copyDst: 8, uniform: 0x40, storage: 0x80 } as const;
const readMode = 1;
/** Most workgroups along one axis. */
const longestAxis = 65535;
/** Shaders count elements in 31 bits, and an element may have 16. */
const mostBytes = 2 ** 32;

interface GpuBuffer extends DeviceBuffer {
  readonly memory: GPUBuffer;
}

/** In a browser. Throws an Error when there is no WebGPU or no adapter. */
export function createWebGpuDevice(options: WebGpuOptions = {}): Promise<Device> {
  return webGpuDevice(options, findGpu);
}

/** `find` gives the GPU where the caller gives no device. */
export async function webGpuDevice(
  options: WebGpuOptions,
  find: () => Promise<GPU>,
): Promise<Device> {
  const { gpu, name } = options.gpu
    ? { gpu: options.gpu as GPUDevice, name: "the caller's device" }
    : await requestDevice(await find());
  return new WebGpuDevice(gpu, name, options.poison ?? false, options.gpu === undefined);
}

async function requestDevice(found: GPU): Promise<{ gpu: GPUDevice; name: string }> {
  const adapter = await found.requestAdapter();
  if (!adapter) throw new Error("the webgpu device found no adapter: there is no GPU or no driver");
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const requiredLimits = { maxBufferSize, maxStorageBufferBindingSize };
  const { vendor, architecture, description, device } = adapter.info;
  const name = description || device || `${vendor} ${architecture}`;
  return { gpu: await adapter.requestDevice({ requiredLimits }), name };
}

/** `navigator.gpu`, where there is one. */
export function browserGpu(): GPU | undefined {
  return (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
}

async function findGpu(): Promise<GPU> {
  const gpu = browserGpu();
  if (!gpu) throw new Error("the webgpu device needs a browser with WebGPU (navigator.gpu)");
  return gpu;
}

interface Prepared {
  readonly spec: KernelSpec;
  readonly pipeline: GPUComputePipeline;
}

class WebGpuDevice implements Device {
  readonly kind = "webgpu";
  readonly description: string;
  /** What stands for the cuts of packed sequences where there are none. */
  private dense: DeviceBuffer | null = null;
  private forms: ReadonlyMap<string, FormCode> = new Map();
  private readonly kernels = new Map<string, Prepared>();
  private failure: Error | null = null;
  /** How many wait for the GPU, and turns of the event loop since the last of them began to. */
  private waiting = 0;
  private turns = 0;
  private isSlowed = false;
  private readonly gpu: GPUDevice;
  private readonly poison: boolean;
  private readonly ownsGpu: boolean;

  constructor(gpu: GPUDevice, name: string, poison: boolean, ownsGpu: boolean) {
    this.gpu = gpu;
    this.poison = poison;
    this.ownsGpu = ownsGpu;
    this.description = `webgpu: ${name}`;
    gpu.addEventListener("uncapturederror", (event) => {
      this.failure ??= new Error(`webgpu: ${(event as GPUUncapturedErrorEvent).error.message}`);
    });
    void gpu.lost.then(({ reason, message }) => {
      if (reason !== "destroyed") this.failure ??= new Error(`webgpu: device lost: ${message}`);
    });
  }

  async load(artifact: ArtifactFiles, forms?: readonly string[]): Promise<void> {
    this.dense = await uploadCuts(this);
    const code = artifact.manifest.targets.find((target) => target.target === "wgsl");
    if (!code) throw new Error(`the artifact of ${artifact.manifest.name} has no code for webgpu`);
    const loaded = code.forms.filter(({ form }) => forms?.includes(form) ?? true);
    this.forms = new Map(loaded.map((form) => [form.form, form]));
    const specs = loaded.flatMap((form) => form.kernels);
    const prepared = Promise.all(
      specs.map(async (spec) => {
        const text = new TextDecoder().decode(artifact.read(spec.file));
        const module = this.gpu.createShaderModule({ code: text, label: spec.entry });
        const { messages } = await module.getCompilationInfo();
        const error = messages.find((message) => message.type === "error");
        if (error) throw new Error(`${spec.file}:${error.lineNum}: ${error.message}`);
        const pipeline = await this.gpu.createComputePipelineAsync({
          layout: "auto",
          compute: { module, entryPoint: spec.entry },
          label: spec.entry,
        });
        this.kernels.set(spec.entry, { spec, pipeline });
      }),
    );
    await this.patiently(prepared);
  }

  /**
   * Waits for the GPU or the driver's compiler. In Node, Dawn asks in every turn of the event loop whether they are done,
   * which keeps a processor busy that both may need: where it takes long, turns are made longer.
   */
  private async patiently<Result>(work: Promise<Result>): Promise<Result> {
    this.waiting++;
    this.turns = 0;
    // Browsers, which have no setImmediate, do not ask.
    if (!this.isSlowed && typeof setImmediate === "function") this.slowDown();
    return work.finally(() => this.waiting--);
  }

  private slowDown(): void {
    this.isSlowed = this.waiting > 0;
    if (!this.isSlowed) return;
    // What is short is waited for closely. Nobody wakes the thread up: it sleeps for a millisecond.
    if (this.turns++ > 1000) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    setImmediate(() => this.slowDown());
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer> {
    const sizeBytes = bytesOf(dtype, shape);
    const memory = this.newMemory(sizeBytes);
    const buffer: GpuBuffer = { spec: { dtype, shape }, sizeBytes, memory };
    if (!zero) this.fillNew(memory);
    return buffer;
  }

  /** Throws an Error when it is too large; `names`: the tensors that are to share it. */
  private newMemory(sizeBytes: number, names: readonly string[] = []): GPUBuffer {
    const size = Math.max(4, Math.ceil(sizeBytes / 4) * 4);
    const flags = usage.storage | usage.copySrc | usage.copyDst;
    const most = Math.min(this.gpu.limits.maxStorageBufferBindingSize, mostBytes);
    if (size > most) {
      const whose = names.length === 0 ? "" : ` for ${names.join(", ")} together`;
      throw new Error(`webgpu: ${size} bytes${whose} are more than a buffer's ${most}`);
    }
    return this.gpu.createBuffer({ size, usage: flags });
  }

  /** What nothing was written to shows as NaN, where the options ask for it; WebGPU's own is zero. */
  private fillNew(memory: GPUBuffer): void {
    if (!this.poison) return;
    const nan = new Uint32Array(memory.size / 4).fill(0x7fff7fff);
    this.gpu.queue.writeBuffer(memory, 0, nan);
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    const { data } = tensor;
    const bytes = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.gpu.queue.writeBuffer((buffer as GpuBuffer).memory, 0, bytes);
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    const { spec, memory, sizeBytes } = buffer as GpuBuffer;
    const { size } = memory;
    const staging = this.gpu.createBuffer({ size, usage: usage.mapRead | usage.copyDst });
    const encoder = this.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(memory, 0, staging, 0, size);
    this.gpu.queue.submit([encoder.finish()]);
    await this.patiently(staging.mapAsync(readMode));
    const data = newData(spec.dtype, elementsOf(spec.shape));
    new Uint8Array(data.buffer).set(
      new Uint8Array(staging.getMappedRange()).subarray(0, sizeBytes),
    );
    staging.destroy();
    this.check();
    return { dtype: spec.dtype, shape: spec.shape, data };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.forms.get(form.name);
    if (!code) throw new Error(`no form ${form.name} for webgpu is loaded`);
    await withShares(this, form, code, args, sizes, this.dense!, (bound) =>
      this.runForm(form, code, bound, sizes),
    );
  }

  private async runForm(
    form: FormSpec,
    code: FormCode,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const buffers = new Map(args);
    const work: DeviceBuffer[] = [];
    for (const spec of code.workspaces) {
      const buffer = await this.alloc(spec.dtype, shapeOf(spec, sizes), false);
      buffers.set(spec.name, buffer);
      work.push(buffer);
    }
    const encoder = this.gpu.createCommandEncoder({ label: form.name });
    const temporary: GPUBuffer[] = [];
    for (const { entry } of code.kernels) {
      const { spec, pipeline } = this.kernels.get(entry)!;
      const points = gridPoints(spec, sizes);
      if (points === 0) continue;
      const gathered: { arg: BufferArg; memory: GPUBuffer }[] = [];
      const entries = spec.buffers.map((arg, binding) => {
        const memory = this.memoryOf(arg, buffers, encoder, temporary);
        gathered.push({ arg, memory });
        return { binding, resource: { buffer: memory } };
      });
      const numbers = this.sizesBuffer(spec, sizes);
      temporary.push(numbers);
      entries.push({ binding: entries.length, resource: { buffer: numbers } });
      const layout = pipeline.getBindGroupLayout(0);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, this.gpu.createBindGroup({ layout, entries }));
      const rows = Math.ceil(points / longestAxis);
      pass.dispatchWorkgroups(Math.ceil(points / rows), rows);
      pass.end();
      for (const { arg, memory } of gathered) {
        if (arg.access === "write") this.takeApart(arg, memory, buffers, encoder);
      }
    }
    this.gpu.queue.submit([encoder.finish()]);
    // Freed by the driver once the queue is through with them.
    for (const buffer of work) this.free(buffer);
    for (const memory of temporary) memory.destroy();
    this.check();
  }

  /** A tensor's buffer, or a bundle: its parts one behind the other, those that are read copied there. */
  private memoryOf(
    arg: BufferArg,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    encoder: GPUCommandEncoder,
    temporary: GPUBuffer[],
  ): GPUBuffer {
    if (!arg.parts) return (buffers.get(arg.name) as GpuBuffer).memory;
    const parts = partsOf(arg.parts, buffers);
    const bytes = parts.reduce((sum, { size }) => sum + size, 0);
    const bundle = this.newMemory(bytes, arg.parts);
    temporary.push(bundle);
    this.fillNew(bundle);
    for (const { memory, offset, size } of arg.access === "read" ? parts : []) {
      if (size > 0) encoder.copyBufferToBuffer(memory, 0, bundle, offset, size);
    }
    return bundle;
  }

  /** Copies what a kernel wrote into a bundle to the buffers of its parts. */
  private takeApart(
    arg: BufferArg,
    bundle: GPUBuffer,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    encoder: GPUCommandEncoder,
  ): void {
    for (const { memory, offset, size } of arg.parts ? partsOf(arg.parts, buffers) : []) {
      if (size > 0) encoder.copyBufferToBuffer(bundle, offset, memory, 0, size);
    }
  }

  private sizesBuffer(spec: KernelSpec, sizes: LaunchSizes): GPUBuffer {
    const numbers = Int32Array.from(spec.scalars, (name) => scalarOf(name, sizes));
    const size = Math.ceil(numbers.byteLength / 16) * 16;
    const buffer = this.gpu.createBuffer({ size, usage: usage.uniform | usage.copyDst });
    this.gpu.queue.writeBuffer(buffer, 0, numbers);
    return buffer;
  }

  async wait(): Promise<void> {
    await this.patiently(this.gpu.queue.onSubmittedWorkDone());
    this.check();
  }

  free(buffer: DeviceBuffer): void {
    (buffer as GpuBuffer).memory.destroy();
  }

  async close(): Promise<void> {
    await this.gpu.queue.onSubmittedWorkDone();
    if (this.ownsGpu) this.gpu.destroy();
  }

  private check(): void {
    if (this.failure) throw this.failure;
  }
}

/** Where each part of a bundle lies in it, in bytes; parts begin at whole words. */
function partsOf(names: readonly string[], buffers: ReadonlyMap<string, DeviceBuffer>) {
  let end = 0;
  return names.map((name) => {
    const { memory, spec } = buffers.get(name) as GpuBuffer;
    const size = Math.ceil(bytesOf(spec.dtype, spec.shape) / 4) * 4;
    const offset = end;
    end += size;
    return { memory, offset, size };
  });
}
