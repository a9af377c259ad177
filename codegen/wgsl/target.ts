/** The WGSL target: default limits of WebGPU, f32 arithmetic. */
import { insertBarriers } from "../../compiler/tile/passes/insert-barriers.ts";
import { stageOperands } from "../../compiler/tile/passes/stage-operands.ts";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import { emitWgsl } from "./emit.ts";

const limits: Limits = {
  threads: 256,
  alignRows: 16,
  alignCols: 16,
  sharedBytes: 16384,
  // What an invocation can hold without spilling on current hardware.
  tileRegisters: 96,
  chunks: [32, 16],
  columnBlocks: [64, 32],
  narrowFactors: false,
  pressureOf: null,
};

export const wgslTarget: Target = {
  name: "wgsl",
  limits,
  legalize: [stageOperands(limits), insertBarriers],
  files: {},
  emit: emitWgsl,
};
