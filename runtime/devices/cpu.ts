/**
 * The CPU device: native code, made from the artifact's LLVM IR by the LLVM tools of this machine.
 *
 * llvm-link, opt -O3, llc and cc run once for each artifact; the library is kept in a cache by its
 * content. Grid points are spread over threads, each with its own scratch memory. Tensors live in
 * ordinary JavaScript memory, so uploads and downloads are copies.
 */
import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { ArtifactFiles, Device, DeviceBuffer, HostTensor, LaunchSizes } from "../device.ts";
import { gridPoints, scalarOf, shapeOf } from "../device.ts";
import { bytesOf, elementsOf, newData } from "../dtype.ts";
import type { Dtype, FormCode, FormSpec, KernelSpec } from "../plan.ts";

export interface CpuOptions {
  /** Threads to spread grid points over; all cores when not given. */
  readonly threads?: number;
  /** Fill new memory with NaN, so that what was never written shows. */
  readonly poison?: boolean;
}

interface CpuBuffer extends DeviceBuffer {
  readonly data: Float32Array | Uint16Array;
}

/** koffi, as far as it is used here. */
interface Koffi {
  load(path: string): { func(prototype: string): NativeFunction };
  address(value: unknown): bigint;
}
type NativeFunction = ((...args: unknown[]) => void) & {
  async: (...args: unknown[]) => void;
};

/** Throws an Error that names what is missing: koffi, a tool of LLVM, or a C compiler. */
export async function createCpuDevice(options: CpuOptions = {}): Promise<Device> {
  const koffi = await loadKoffi();
  const tools = await findTools();
  return new CpuDevice(koffi, tools, options);
}

async function loadKoffi(): Promise<Koffi> {
  try {
    // @ts-ignore: an optional peer, not there for everybody.
    return (await import("koffi")).default as Koffi;
  } catch {
    throw new Error("the cpu device needs the package koffi; install it with `npm install koffi`");
  }
}

type Tools = Readonly<Record<"llvm-link" | "opt" | "llc" | "cc", string>>;

/** The LLVM tools, version 14 where several are there. */
async function findTools(): Promise<Tools> {
  const find = async (name: string): Promise<string> => {
    const places = [`/usr/lib/llvm-14/bin/${name}`, `${name}-14`, name];
    for (const place of name === "cc" ? ["cc", "gcc", "clang"] : places) {
      const found = await run(place, ["--version"]).then(
        () => true,
        () => false,
      );
      if (found) return place;
    }
    const packages = name === "cc" ? "a C compiler" : "LLVM 14 (the Debian package llvm-14)";
    throw new Error(`the cpu device needs ${packages}: \`${name}\` was not found`);
  };
  const names = ["llvm-link", "opt", "llc", "cc"] as const;
  const found = await Promise.all(names.map(async (name) => [name, await find(name)] as const));
  return Object.fromEntries(found) as Tools;
}

const run = promisify(execFile);

class CpuDevice implements Device {
  readonly kind = "cpu";
  readonly description: string;
  private readonly threads: number;
  private readonly functions = new Map<string, NativeFunction>();
  private forms: ReadonlyMap<string, FormCode> = new Map();
  private queue: Promise<void> = Promise.resolve();
  private readonly koffi: Koffi;
  private readonly tools: Tools;
  private readonly options: CpuOptions;

  constructor(koffi: Koffi, tools: Tools, options: CpuOptions) {
    this.koffi = koffi;
    this.tools = tools;
    this.options = options;
    this.threads = options.threads ?? availableParallelism();
    const plural = this.threads === 1 ? "" : "s";
    this.description = `cpu: ${this.threads} thread${plural}, ${cpus()[0]?.model.trim() ?? "unknown"}`;
  }

  async load(artifact: ArtifactFiles): Promise<void> {
    const code = artifact.manifest.targets.find((target) => target.target === "cpu");
    if (!code) throw new Error(`the artifact of ${artifact.manifest.name} has no code for the cpu`);
    const kernels = code.forms.flatMap((form) => form.kernels);
    const sources = [...code.files, ...kernels.map((kernel) => kernel.file)];
    const library = await this.library(sources.map((path) => artifact.read(path)));
    const native = this.koffi.load(library);
    for (const { entry } of kernels) {
      const prototype = `void ${entry}(void *buffers, void *scalars, uint64_t scratch, int64_t begin, int64_t end)`;
      this.functions.set(entry, native.func(prototype));
    }
    this.forms = new Map(code.forms.map((form) => [form.form, form]));
  }

  /** The path of the compiled library, from the cache when it was compiled before. */
  private async library(sources: readonly Uint8Array[]): Promise<string> {
    const hash = createHash("sha256");
    for (const source of sources) hash.update(source).update("\0");
    hash
      .update(cpus()[0]?.model ?? "")
      .update(process.arch)
      .update("1");
    const folder = await cacheFolder();
    const target = join(folder, `${hash.digest("hex").slice(0, 32)}.so`);
    if (await exists(target)) return target;
    const work = await mkdtemp(join(tmpdir(), "laspc-"));
    try {
      const files = sources.map((_, i) => join(work, `${i}.ll`));
      await Promise.all(sources.map((source, i) => writeFile(files[i]!, source)));
      const at = (name: string) => join(work, name);
      await run(this.tools["llvm-link"], [...files, "-o", at("all.bc")]);
      await run(this.tools.opt, [
        "-O3",
        "-mcpu=native",
        `-mtriple=${targetTriple()}`,
        at("all.bc"),
        "-o",
        at("fast.bc"),
      ]);
      const llc = [
        "-O3",
        "-mcpu=native",
        "-filetype=obj",
        "-relocation-model=pic",
        "-fp-contract=off",
      ];
      await run(this.tools.llc, [...llc, at("fast.bc"), "-o", at("all.o")]);
      await run(this.tools.cc, ["-shared", at("all.o"), "-o", at("all.so"), "-lm"]);
      // Renamed into place whole, so that another process never loads half a file.
      const staged = `${target}.${randomUUID()}`;
      await writeFile(staged, await readFile(at("all.so")), { mode: 0o700 });
      await rename(staged, target);
    } catch (error) {
      const { stderr, message } = error as Error & { stderr?: string };
      throw new Error(`compiling for the cpu failed: ${stderr || message}`);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    return target;
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero: boolean): Promise<DeviceBuffer> {
    const data = newData(dtype, elementsOf(shape));
    if (!zero && this.options.poison) data.fill(dtype === "f32" ? NaN : 0x7fff);
    const buffer: CpuBuffer = { spec: { dtype, shape }, sizeBytes: bytesOf(dtype, shape), data };
    return buffer;
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    await this.wait();
    (buffer as CpuBuffer).data.set(tensor.data);
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    await this.wait();
    const { spec, data } = buffer as CpuBuffer;
    return { dtype: spec.dtype, shape: spec.shape, data: data.slice() };
  }

  launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    this.queue = this.queue.then(() => this.runForm(form, args, sizes));
    return this.queue;
  }

  private async runForm(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.forms.get(form.name);
    if (!code) throw new Error(`the artifact has no form ${form.name} for the cpu`);
    const buffers = new Map(args);
    for (const work of code.workspaces) {
      buffers.set(work.name, await this.alloc(work.dtype, shapeOf(work, sizes), false));
    }
    for (const kernel of code.kernels) await this.runKernel(kernel, buffers, sizes);
  }

  private async runKernel(
    kernel: KernelSpec,
    buffers: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const points = gridPoints(kernel, sizes);
    if (points === 0) return;
    // On memory of their own: short typed arrays may lie in the heap, where a collection moves them.
    const pointers = new BigUint64Array(new ArrayBuffer(kernel.buffers.length * 8));
    kernel.buffers.forEach(({ name }, i) => {
      const { data } = buffers.get(name) as CpuBuffer;
      pointers[i] = data.length === 0 ? 0n : this.koffi.address(data);
    });
    const scalars = new BigInt64Array(new ArrayBuffer(kernel.scalars.length * 8));
    kernel.scalars.forEach((name, i) => (scalars[i] = BigInt(scalarOf(name, sizes))));
    const native = this.functions.get(kernel.entry)!;
    const threads = Math.min(this.threads, points);
    await Promise.all(
      Array.from({ length: threads }, (_, i) => {
        const [begin, end] = [i, i + 1].map((k) => Math.floor((points * k) / threads));
        const scratch = new Uint8Array(new ArrayBuffer(kernel.sharedBytes + 64));
        const aligned = (this.koffi.address(scratch) + 63n) & ~63n;
        return new Promise<void>((resolve, reject) => {
          native.async(pointers, scalars, aligned, begin, end, (error: Error | null) => {
            // Held until here: the native code works in it.
            if (error) reject(error);
            else resolve(void scratch.length);
          });
        });
      }),
    );
  }

  async wait(): Promise<void> {
    await this.queue;
  }

  free(_buffer: DeviceBuffer): void {
    // JavaScript's memory is collected when nothing refers to it.
  }

  async close(): Promise<void> {
    await this.queue.catch(() => {});
  }
}

/** LLVM's name for this machine; without it the optimiser knows no vector registers. */
function targetTriple(): string {
  const machine = { x64: "x86_64", arm64: "aarch64" }[process.arch as string] ?? process.arch;
  return `${machine}-unknown-${process.platform === "darwin" ? "darwin" : "linux-gnu"}`;
}

/** A folder that only this user can write to. */
async function cacheFolder(): Promise<string> {
  const base = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const folder = join(base, "laspc");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { uid } = await stat(folder);
  if (process.getuid && uid !== process.getuid()) {
    throw new Error(`the cache folder ${folder} belongs to another user`);
  }
  await chmod(folder, 0o700);
  return folder;
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
