/** The WGSL target: default limits of WebGPU, f32 arithmetic. */
import type { Pass } from "../../compiler/support/pass.ts";
import { noSpan } from "../../compiler/support/span.ts";
import type { TileProgram } from "../../compiler/tile/ir.ts";
import { insertBarriers } from "../../compiler/tile/passes/insert-barriers.ts";
import { stageOperands } from "../../compiler/tile/passes/stage-operands.ts";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import { bindingsOf, emitWgsl, storageBuffers } from "./emit.ts";

const limits: Limits = {
  threads: 256,
  alignRows: 16,
  alignCols: 16,
  sharedBytes: 16384,
  // What an invocation can hold without spilling on current hardware.
  tileRegisters: 96,
  chunks: [32, 16],
  columnBlocks: [64, 32],
};

/**
 * Count-bindings: a shader may have eight storage buffers; a kernel that needs more is not compiled.
 */
const countBindings: Pass<TileProgram> = {
  name: "count-bindings",
  summary: "check that every kernel's buffers fit a shader's bindings",
  run: (program, report) => {
    for (const kernel of program.kernels) {
      const count = bindingsOf(kernel).length;
      if (count <= storageBuffers) continue;
      const message = `${kernel.name} needs ${count} storage buffers; WebGPU offers ${storageBuffers}`;
      report.limit({
        code: "unsupported-size",
        severity: "error",
        message,
        labels: [{ span: noSpan, text: message }],
        help: "merge inputs, or choose another target",
      });
    }
    return program;
  },
};

export const wgslTarget: Target = {
  name: "wgsl",
  limits,
  legalize: [stageOperands(limits), insertBarriers, countBindings],
  files: {},
  emit: emitWgsl,
};
