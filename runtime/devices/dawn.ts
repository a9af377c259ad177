/** The WebGPU device in Node: its GPU is found by Dawn, of the package webgpu. */
import type { Device } from "../device.ts";
import { missingPeer } from "./peers.ts";
import { type WebGpuOptions, browserGpu, webGpuDevice } from "./webgpu.ts";

/** Dawn aborts when an instance is collected while events of its devices are under way. */
const instances: GPU[] = [];

/** Throws an Error that names what is missing: the package webgpu, or an adapter. */
export function createDawnDevice(options: WebGpuOptions = {}): Promise<Device> {
  return webGpuDevice(options, findGpu);
}

async function findGpu(): Promise<GPU> {
  const own = browserGpu();
  if (own) return own;
  let dawn: { create: (flags: string[]) => GPU };
  try {
    // @ts-ignore: an optional peer, not there for everybody.
    dawn = await import("webgpu");
  } catch (error) {
    throw missingPeer("the webgpu device", "webgpu", error);
  }
  const gpu = dawn.create([]);
  instances.push(gpu);
  return gpu;
}
