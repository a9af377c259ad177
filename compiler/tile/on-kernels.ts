import type { Pass, Report } from "../support/pass.ts";
import type { Kernel, TileProgram } from "./ir.ts";

/** What a pass does to each kernel on its own; a program of which none changes stays the same object. */
export function onKernels(
  change: (kernel: Kernel, report: Report) => Kernel,
): Pass<TileProgram>["run"] {
  return (program, report) => {
    const kernels = program.kernels.map((kernel) => change(kernel, report));
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  };
}
