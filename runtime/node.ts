/** `@laspc/runtime/node`: folders, native devices, and transports between threads and processes. */
export { openArtifact } from "./artifact.ts";
export { type CpuOptions, createCpuDevice } from "./devices/cpu.ts";
export { type CudaOptions, createCudaDevice } from "./devices/cuda.ts";
export { createDawnDevice } from "./devices/dawn.ts";
export type { CallersGpu, WebGpuOptions } from "./devices/webgpu.ts";
export { type Launch, launchOf, localRankOf } from "./launch.ts";
export { type NcclOptions, ncclTransport, ncclTransports } from "./transports/nccl.ts";
export { type TcpOptions, tcpTransport } from "./transports/tcp.ts";
export { type TcpRun, runRankOverTcp } from "./transports/tcp-rank.ts";
export {
  type RankJob,
  type RankMessage,
  WorkerTransport,
  runRanksInWorkers,
} from "./transports/worker.ts";
