/** `@laspc/runtime/web`: the device of a browser. */
export { type CallersGpu, type WebGpuOptions, createWebGpuDevice } from "./devices/webgpu.ts";
