/**
 * libcuda and NVRTC through koffi: where they are found, and their calls. Every call that fails throws
 * an Error with the call's name and the library's own words for what went wrong.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  Calls,
  type Library,
  type Out,
  firstThatLoads,
  libraryFolders,
  loadKoffi,
  nameOf,
} from "./native.ts";

/** Paths of the two libraries, for those that are not where `openCuda` looks. */
export interface CudaLibraries {
  readonly driver?: string;
  readonly nvrtc?: string;
}

export interface Cuda {
  readonly driver: CudaDriver;
  readonly nvrtc: Nvrtc;
  /** Where the memory of a typed array lies; it must have an ArrayBuffer of its own. */
  readonly addressOf: (memory: BigUint64Array) => bigint;
}

/** Throws an Error that names what is missing: koffi, the driver or NVRTC, and where to get it. */
export async function openCuda(libraries: CudaLibraries = {}): Promise<Cuda> {
  const who = "the cuda device";
  const koffi = await loadKoffi(who);
  const driverNames = libraries.driver ? [libraries.driver] : ["libcuda.so.1", "libcuda.so"];
  const driverHint = "libcuda.so.1, which comes with NVIDIA's driver";
  const driver = new CudaDriver(firstThatLoads(koffi, driverNames, who, driverHint));
  const nvrtcNames = libraries.nvrtc ? [libraries.nvrtc] : nvrtcPlaces(driver.major());
  const nvrtcHint = "NVRTC, from the CUDA toolkit or `pip install nvidia-cuda-nvrtc`";
  const nvrtc = new Nvrtc(firstThatLoads(koffi, nvrtcNames, who, nvrtcHint));
  return { driver, nvrtc, addressOf: (memory) => koffi.address(memory) };
}

/**
 * Where NVRTC may be, best first: versions the driver can load code from, in the loader's own places,
 * then where `libraryFolders` says.
 */
function nvrtcPlaces(driverMajor: number): string[] {
  const versions = [13, 12].filter((major) => major <= driverMajor);
  const names = [...versions.map((major) => `libnvrtc.so.${major}`), "libnvrtc.so"];
  const folders = libraryFolders();
  const files = names.flatMap((name) => folders.map((folder) => join(folder, name)));
  return [...names, ...files.filter((file) => existsSync(file))];
}

const success = 0;
const notReady = 600;

/** The driver API, as far as it is used here. Handles and device pointers are 64-bit numbers. */
export class CudaDriver {
  private readonly calls: Calls;

  constructor(library: Library) {
    this.calls = new Calls(library, "cuda");
  }

  /** The CUDA version the driver is of, 13 for 13.0. */
  major(): number {
    return Math.floor(this.number("cuDriverGetVersion(_Out_ int *version)") / 1000);
  }

  /** Calls a function by its prototype; throws with its name and the driver's words. */
  call(prototype: string, ...args: unknown[]): void {
    this.check(prototype, this.calls.get(prototype)(...args));
  }

  /** The same for a function whose first parameter is an int it writes. */
  number(prototype: string, ...args: unknown[]): number {
    const out: Out = [null];
    this.call(prototype, out, ...args);
    return Number(out[0]);
  }

  /** The same for a handle or a pointer. */
  handle(prototype: string, ...args: unknown[]): bigint {
    const out: Out = [null];
    this.call(prototype, out, ...args);
    return BigInt(out[0] as number | bigint);
  }

  /** Asks a stream or an event whether it is done. Throws when something before it failed. */
  isDone(prototype: string, handle: bigint): boolean {
    const result = this.calls.get(prototype)(handle);
    if (result === notReady) return false;
    this.check(prototype, result);
    return true;
  }

  private check(prototype: string, result: unknown): void {
    if (result === success) return;
    const name = this.text("cuGetErrorName(int error, _Out_ const char **text)", result);
    const words = this.text("cuGetErrorString(int error, _Out_ const char **text)", result);
    const what = name === null ? `error ${result}` : `${name}${words === null ? "" : `: ${words}`}`;
    throw new Error(`cuda: ${nameOf(prototype)} failed: ${what}`);
  }

  private text(prototype: string, error: unknown): string | null {
    const out: Out = [null];
    return this.calls.get(prototype)(error, out) === success ? (out[0] as string) : null;
  }
}

/** CUDA's run-time compiler. */
export class Nvrtc {
  private readonly calls: Calls;

  constructor(library: Library) {
    this.calls = new Calls(library, "cuda");
  }

  /** "13.0" */
  version(): string {
    const [major, minor]: [Out, Out] = [[null], [null]];
    this.call("nvrtcVersion(_Out_ int *major, _Out_ int *minor)", major, minor);
    return `${major[0]}.${minor[0]}`;
  }

  /**
   * CUDA C++ to code for a compute capability (90 is sm_90): a cubin, or PTX for the driver to finish
   * when the GPU is newer than the compiler. Runs on another thread. Throws with the compiler's words.
   */
  async compile(source: string, name: string, capability: number): Promise<Uint8Array> {
    const known = this.capabilities().filter((other) => other <= capability);
    if (known.length === 0) {
      throw new Error(`cuda: NVRTC ${this.version()} makes no code for sm_${capability}`);
    }
    const isCubin = known.includes(capability);
    // What Hopper alone has is in its own "a" variant.
    const variant = capability === 90 ? "a" : "";
    const target = isCubin ? `sm_${capability}${variant}` : `compute_${Math.max(...known)}`;
    const program: Out = [null];
    this.call(
      "nvrtcCreateProgram(_Out_ uint64_t *program, const char *source, const char *name, int headers, " +
        "uint64_t texts, uint64_t names)",
      program,
      source,
      `${name}.cu`,
      0,
      0,
      0,
    );
    try {
      const options = [`--gpu-architecture=${target}`, "--std=c++17"];
      const failed = await this.compileAsync(program[0], options);
      if (failed) throw new Error(`cuda: ${name} does not compile: ${this.log(program[0])}`);
      return this.result(isCubin ? "CUBIN" : "PTX", program[0]);
    } finally {
      this.call("nvrtcDestroyProgram(_Inout_ uint64_t *program)", program);
    }
  }

  private capabilities(): number[] {
    const count: Out = [null];
    this.call("nvrtcGetNumSupportedArchs(_Out_ int *count)", count);
    const all = new Int32Array(new ArrayBuffer(4 * Number(count[0])));
    this.call("nvrtcGetSupportedArchs(void *all)", all);
    return [...all];
  }

  private compileAsync(program: unknown, options: readonly string[]): Promise<boolean> {
    const prototype = "nvrtcCompileProgram(uint64_t program, int count, const char **options)";
    const compile = this.calls.get(prototype);
    return new Promise((resolve, reject) => {
      compile.async(program, options.length, options, (error: Error | null, result: unknown) => {
        if (error) reject(error);
        else resolve(result !== success);
      });
    });
  }

  private log(program: unknown): string {
    return new TextDecoder().decode(this.result("ProgramLog", program)).replace(/\0+$/, "");
  }

  private result(what: "CUBIN" | "PTX" | "ProgramLog", program: unknown): Uint8Array {
    const size: Out = [null];
    this.call(`nvrtcGet${what}Size(uint64_t program, _Out_ size_t *size)`, program, size);
    const bytes = new Uint8Array(new ArrayBuffer(Number(size[0])));
    this.call(`nvrtcGet${what}(uint64_t program, void *bytes)`, program, bytes);
    return bytes;
  }

  private call(prototype: string, ...args: unknown[]): void {
    const result = this.calls.get(prototype)(...args);
    if (result !== success) throw new Error(`cuda: ${nameOf(prototype)} failed: error ${result}`);
  }
}
