/** Makes targets and devices by the names `--device` and `--target` know. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createCpuTarget } from "../../codegen/cpu/target.ts";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { type Architecture, cudaTargetFor } from "../../codegen/cuda/target.ts";
import type { Device } from "../../runtime/device.ts";
import { createCpuDevice } from "../../runtime/devices/cpu.ts";
import { createCudaDevice } from "../../runtime/devices/cuda.ts";
import { createDawnDevice } from "../../runtime/devices/dawn.ts";
import { FolderError } from "../../runtime/temporary.ts";
import type { SegmentTokens } from "../../runtime/segments.ts";
import type { Compiled } from "../index.ts";
import type { Target } from "../tile/target.ts";
import { UsageError, UserError } from "./arguments.ts";
import { artifactOf, say } from "./files.ts";
import { patiently } from "./patience.ts";

export const deviceNames = ["reference", "cpu", "webgpu", "cuda"] as const;
export type DeviceName = (typeof deviceNames)[number];
export const targetNames = ["cuda", "wgsl", "cpu"] as const;
export type TargetChoice = (typeof targetNames)[number];

const targetOf: Readonly<Record<DeviceName, TargetChoice | null>> = {
  reference: null,
  cpu: "cpu",
  webgpu: "wgsl",
  cuda: "cuda",
};

/** `cpu` for every rank, or one name for each: `cpu,cpu,webgpu,webgpu`. */
export function devicesFor(text: string, ranks: number): DeviceName[] {
  const names = text.split(",").map((name) => {
    const found = deviceNames.find((known) => known === name);
    if (!found) {
      throw new UsageError(`--device is one of ${deviceNames.join(", ")}, not \`${name}\``);
    }
    return found;
  });
  if (names.length === 1) return Array.from({ length: ranks }, () => names[0]!);
  if (names.length !== ranks) {
    throw new UsageError(`--device names ${names.length} devices for --devices ${ranks}`);
  }
  return names;
}

/** A target's emitter; throws UserError with what is missing. */
export async function loadTarget(
  name: TargetChoice,
  architecture: Architecture = "sm_90",
): Promise<Target> {
  switch (name) {
    case "wgsl":
      return wgslTarget;
    case "cuda":
      return cudaTargetFor(architecture);
    case "cpu": {
      const target = await createCpuTarget();
      if ("missing" in target) throw new UserError(`no code for the cpu: ${target.missing}`);
      return target;
    }
  }
}

export async function targetsFor(
  devices: readonly DeviceName[],
  architecture: Architecture = "sm_90",
): Promise<Target[]> {
  const names = new Set(devices.map((device) => targetOf[device]));
  return Promise.all(
    [...names].flatMap((name) => (name === null ? [] : [loadTarget(name, architecture)])),
  );
}

export interface OpenOptions extends DeviceOptions {
  /** What will be launched, where that is known; compiling all takes longer. */
  readonly forms?: readonly string[];
}

export interface DeviceOptions {
  readonly threads: number | null;
  readonly poison: boolean;
  /** Tokens of the segments that a device with too few sequences and heads cuts them into. */
  readonly segment?: SegmentTokens;
  /** Which GPU, counted from 0. */
  readonly ordinal?: number;
  /** In place of it: which of this host's ranks the device is for. */
  readonly localRank?: number;
}

/** A device, with the artifact's forms loaded. Throws UserError with what is missing. */
export async function openDevice(
  name: DeviceName,
  compiled: Compiled,
  { forms, ...options }: OpenOptions,
): Promise<Device> {
  const device = await makeDevice(name, options).catch((error: unknown) => {
    throw new UserError((error as Error).message);
  });
  const load = () => device.load(artifactOf(compiled), forms);
  await patiently(`${name}: making code`, say, load).catch((error: unknown) => {
    throw error instanceof FolderError ? new UserError(error.message) : error;
  });
  return device;
}

/** A device of a kind, nothing loaded yet. Throws an Error with what is missing. */
export function makeDevice(
  name: DeviceName,
  { threads, poison, segment = "auto", ordinal, localRank }: DeviceOptions,
): Promise<Device> {
  switch (name) {
    case "reference":
      return Promise.resolve(createReferenceDevice());
    case "cpu":
      return createCpuDevice({ poison, ...(threads === null ? {} : { threads }) });
    case "webgpu":
      return openWebGpu(poison);
    case "cuda":
      return createCudaDevice({
        poison,
        segment,
        ...(ordinal === undefined ? {} : { ordinal }),
        ...(localRank === undefined ? {} : { localRank }),
      });
  }
}

/** A GPU's adapter; where there is none, the software driver that setup unpacked, saying so. */
async function openWebGpu(poison: boolean): Promise<Device> {
  try {
    return await createDawnDevice({ poison });
  } catch (error) {
    const driver = join(
      dirname(fileURLToPath(import.meta.url)),
      "../node_modules/.cache/laspc/swiftshader/vk_swiftshader_icd.json",
    );
    if (process.env["VK_ICD_FILENAMES"] || !existsSync(driver)) throw error;
    process.env["VK_ICD_FILENAMES"] = driver;
    say("  webgpu: no GPU found; using SwiftShader, which runs on the CPU");
    return createDawnDevice({ poison });
  }
}

/** The definition as written, and its forms as scans. */
export function referencePrograms(compiled: Compiled) {
  return new Map([
    ["definition", compiled.program],
    ...compiled.sharded.forms.map((form) => [form.name, form.program] as const),
  ]);
}
