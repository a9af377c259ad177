/** CUDA in software for tests: built by g++ when a test file asks for it. What it compiles is gone when the file is done. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import type { Compiled } from "../../../../compiler/index.ts";
import { openCuda } from "../../../../runtime/devices/cuda-library.ts";
import { createCudaDevice } from "../../../../runtime/devices/cuda.ts";
import type { Device } from "../../../../runtime/device.ts";
import type { SegmentTokens } from "../../../../runtime/segments.ts";
import { has } from "../../../support/devices.ts";

export const available = has("g++");
/** "" or " (skipped: reason)", for a test's title. */
export const why = available ? "" : " (skipped: g++ is not installed)";

const cache = join(import.meta.dirname, "../../../../node_modules/.cache/laspc/software-cuda");
const folder = mkdtempSync(join(tmpdir(), "laspc-software-cuda-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
// What is compiled here must not be found by a GPU, nor by the next run of the tests.
process.env["XDG_CACHE_HOME"] = join(folder, "cache");

let library: string | null = null;

/** The paths `createCudaDevice` takes: one library is driver, compiler and NCCL. */
export function softwareLibraries(): { driver: string; nvrtc: string } {
  library ??= build();
  return { driver: library, nvrtc: library };
}

/** A folder in which a process finds the library by the names of NVIDIA's: for LD_LIBRARY_PATH. */
export function softwareFolder(): string {
  const { driver } = softwareLibraries();
  const named = join(folder, "named");
  if (!existsSync(named)) {
    mkdirSync(named);
    const names = ["libcuda.so.1", "libnvrtc.so.13", "libnccl.so.2"];
    for (const name of names) symlinkSync(driver, join(named, name));
  }
  return named;
}

/** A device that runs kernels in software, and poisons what it allocates. It has one multiprocessor. */
export function createSoftwareCuda(segment: SegmentTokens = "auto", ordinal = 0): Promise<Device> {
  return createCudaDevice({ poison: true, libraries: softwareLibraries(), segment, ordinal });
}

/** Does something with the threads of every block taken in the other order. */
export async function backward<Result>(work: () => Promise<Result>): Promise<Result> {
  process.env["SOFTWARE_CUDA_ORDER"] = "backward";
  return work().finally(() => delete process.env["SOFTWARE_CUDA_ORDER"]);
}

/** Does something with a GPU of compute capability 9.0, whose kernels use what Hopper alone has. */
export async function onHopper<Result>(work: () => Promise<Result>): Promise<Result> {
  process.env["SOFTWARE_CUDA_SM90"] = "1";
  return work().finally(() => delete process.env["SOFTWARE_CUDA_SM90"]);
}

/**
 * Throws with g++'s words where the text of any kernel is wrong: also of those that a test does not launch, and
 * therefore does not compile. All are one text, with a namespace for each, since they share helpers.
 */
export async function checkKernels({ files }: Compiled): Promise<void> {
  const sources = [...files].filter(([path]) => path.endsWith(".cu"));
  const parts = sources.map(([, text], i) => `namespace file_${i} {\n${text}}\n`);
  const uses = sources.map((_, i) => `using namespace file_${i};\n`);
  const { nvrtc } = await openCuda(softwareLibraries());
  const capability = process.env["SOFTWARE_CUDA_SM90"] ? 90 : 80;
  process.env["SOFTWARE_CUDA_CHECK"] = "1";
  await nvrtc
    .compile([...parts, ...uses].join(""), "all", capability)
    .finally(() => delete process.env["SOFTWARE_CUDA_CHECK"]);
}

/** By which kernels are compiled, and what is compiled for them before. */
const kernelOptions = "-std=c++17 -Og -w -fPIC -ftrivial-auto-var-init=pattern";

/** Kept by content for other test files and runs: the library takes seconds. */
function build(): string {
  const names = ["cuda.cpp", "nccl.cpp", "streams.h", "prelude.h"];
  const texts = names.map((name) => readFileSync(join(import.meta.dirname, name)));
  const hash = createHash("sha256").update(kernelOptions);
  for (const text of texts) hash.update(text).update("\0");
  const kept = join(cache, hash.digest("hex").slice(0, 16));
  const library = join(kept, "libsoftwarecuda.so");
  if (existsSync(kept)) return library;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, "work-"));
  names.forEach((name, i) => writeFileSync(join(work, name), texts[i]!));
  const gcc = (options: string[]) => execFileSync("g++", options, { cwd: work });
  gcc([...kernelOptions.split(" "), "-o", "prelude.h.gch", "prelude.h"]);
  const facts = [`-DKERNEL_OPTIONS="${kernelOptions}"`, `-DPRELUDE="${join(kept, "prelude.h")}"`];
  const options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-o", "libsoftwarecuda.so"];
  gcc([...options, ...facts, "cuda.cpp", "nccl.cpp", "-ldl"]);
  try {
    renameSync(work, kept);
  } catch (error) {
    // Another test process was faster.
    if (!existsSync(kept)) throw error;
    rmSync(work, { recursive: true });
  }
  return library;
}
