/** The CUDA target, tier sm_80: f32 arithmetic in registers, static shared memory. */
import { insertBarriers } from "../../compiler/tile/passes/insert-barriers.ts";
import { stageOperands } from "../../compiler/tile/passes/stage-operands.ts";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import { emitCuda } from "./emit.ts";

const limits: Limits = {
  threads: 256,
  alignRows: 16,
  alignCols: 16,
  // What a block has without opting in to more.
  sharedBytes: 49152,
  // 255 registers a thread, less what addresses and products take.
  tileRegisters: 160,
  chunks: [64, 32, 16],
  columnBlocks: [128, 64, 32],
};

export const cudaTarget: Target = {
  name: "cuda",
  limits,
  legalize: [stageOperands(limits), insertBarriers],
  files: {},
  emit: emitCuda,
};
