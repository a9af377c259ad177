/** The CPU target: LLVM IR by llvm-bindings. One thread serves a grid point. */
import type { Target } from "../../compiler/tile/target.ts";
import { emitCpu } from "./emit.ts";
import rows from "./helpers/rows.ll";
import { turnFactors } from "./legalize.ts";

/** The target, or what is missing on this machine to emit for it. */
export async function createCpuTarget(): Promise<Target | { readonly missing: string }> {
  try {
    const module = await import("llvm-bindings");
    const lib = module.default;
    return {
      name: "cpu",
      limits: {
        threads: 1,
        // Vectors of 16 floats, the widest that any CPU here has.
        alignRows: 16,
        alignCols: 16,
        sharedBytes: Infinity,
        tileRegisters: Infinity,
        chunks: [64],
        columnBlocks: [],
      },
      legalize: [turnFactors],
      files: { "rows.ll": rows },
      emit: (kernel, context) => emitCpu(lib, kernel, context),
    };
  } catch (error) {
    const why = (error as Error).message.split("\n")[0];
    return { missing: `the package llvm-bindings (LLVM 14) is not installed: ${why}` };
  }
}
