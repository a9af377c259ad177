/**
 * One-warpgroup: blocks for single chunks have four warps in place of eight, where what a chunk takes is small.
 *
 *   kernel delta_net_forward_1 threads 256        kernel delta_net_forward_1 threads 128
 *
 * A chunk's threads wait for each other at every barrier, and for the few that do what cannot be shared: scans, the blocks of a
 * triangle. A processor has more such blocks beside each other then, which fill the gaps, and what each warp
 * computes for itself, addresses and vectors, is computed half as often.
 *
 * Needs: from-tensor. Guarantees: the same values; sums along rows may be of fewer parts.
 */
import type { Pass } from "../../support/pass.ts";
import { hasLoop } from "../accesses.ts";
import type { Kernel, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

/** Four warps. */
export const warpgroup = 128;

/** `suits`: is a kernel of one warpgroup small enough, in registers and shared memory? */
export const oneWarpgroup = (suits: (kernel: Kernel) => boolean): Pass<TileProgram> => ({
  name: "one-warpgroup",
  summary: "give a single chunk four warps, where it is small",
  run: onKernels((kernel) => {
    if (hasLoop(kernel) || kernel.threads <= warpgroup) return kernel;
    const small = { ...kernel, threads: warpgroup };
    return suits(small) ? small : kernel;
  }),
});
