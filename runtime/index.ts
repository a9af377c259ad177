/** `@laspc/runtime`: plans and who walks them, wherever JavaScript runs. Devices are in ./web.ts and ./node.ts. */
export * from "./plan.ts";
export * from "./device.ts";
export * from "./transport.ts";
export { Mailbox } from "./mailbox.ts";
export * from "./dtype.ts";
export * from "./random.ts";
export * from "./run.ts";
export { openFiles, sealManifest } from "./seal.ts";
export * from "./npy.ts";
export * from "./safetensors.ts";
export * from "./validate.ts";
export * from "./layout.ts";
export { orderProblem } from "./ordered.ts";
export { type SlowLink, slowTransport } from "./transports/slow.ts";
export { inProcessTransports } from "./transports/in-process.ts";
