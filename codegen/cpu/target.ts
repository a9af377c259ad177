/** The CPU target: LLVM IR by llvm-bindings. One thread serves a grid point. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type llvm from "llvm-bindings";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import type { Llvm } from "./builder.ts";
import { lanes } from "./builder.ts";
import { emitCpu } from "./emit.ts";
import { helperFiles } from "./helpers.ts";
import { turnFactors } from "./legalize.ts";

export const cpuLimits: Limits = {
  threads: 1,
  alignRows: lanes,
  alignCols: lanes,
  sharedBytes: Infinity,
  tileRegisters: Infinity,
  chunks: [32],
  columnBlocks: [],
  narrowFactors: false,
  pressureOf: null,
};

/** The target, or what is missing on this machine to emit for it. */
export async function createCpuTarget(): Promise<Target | { readonly missing: string }> {
  let lib: typeof llvm;
  try {
    lib = (await import("llvm-bindings")).default;
  } catch (error) {
    return { missing: missingBindings(error) };
  }
  const context = new lib.LLVMContext();
  const tools: Llvm = { lib, context, vector: vectorType(lib, context) };
  return {
    name: "cpu",
    limits: cpuLimits,
    legalize: [turnFactors],
    files: helperFiles,
    emit: (kernel, emitContext) => emitCpu(tools, kernel, emitContext),
  };
}

/** The version is that of package.json. */
function missingBindings(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const isThere = code !== "ERR_MODULE_NOT_FOUND";
  const why = isThere ? `, which cannot be loaded (${message.split("\n", 1)[0]})` : "";
  return (
    `it needs the package llvm-bindings, which brings the writer of LLVM IR${why}: install it with ` +
    "`npm install llvm-bindings@0.4.2` (it compiles itself for minutes, with cmake, g++, zlib1g-dev and llvm-14-dev)"
  );
}

/** <16 x float>; llvm-bindings has no constructor for it, but reads it from a file. */
function vectorType(lib: typeof llvm, context: llvm.LLVMContext): llvm.Type {
  const folder = mkdtempSync(join(tmpdir(), "laspc-"));
  try {
    const file = join(folder, "vector.ll");
    writeFileSync(file, `declare <${lanes} x float> @vector()\n`);
    const module = lib.parseIRFile(file, new lib.SMDiagnostic(), context);
    return module.getFunction("vector")!.getReturnType();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
