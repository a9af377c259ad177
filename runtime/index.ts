/** The runtime's public face: runs artifacts, knows nothing of the compiler. */
export * from "./plan.ts";
export * from "./device.ts";
export * from "./transport.ts";
export { Mailbox } from "./mailbox.ts";
export * from "./dtype.ts";
export * from "./random.ts";
export * from "./run.ts";
export * from "./artifact.ts";
export * from "./npy.ts";
export * from "./safetensors.ts";
export * from "./validate.ts";
export { createCudaDevice } from "./devices/cuda.ts";
export { createWebGpuDevice } from "./devices/webgpu.ts";
export { runRanksInWorkers, WorkerTransport } from "./transports/worker.ts";
export { inProcessTransports } from "./transports/in-process.ts";
export { createCpuDevice } from "./devices/cpu.ts";
