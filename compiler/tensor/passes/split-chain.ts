/**
 * Split-chain: as `split`, but what only outputs need of inputs stays in the loop, for a role that computes it beside the states.
 *
 *   %loop = chunks (%S = %S0) {              %before = chunks () {
 *     %L = mul (%k @ %b^T), %mask              %L = mul (%k @ %b^T), %mask
 *     %P = mul (%q @ %b^T), %mask              %N = invert %L
 *     %rhs = add %v, (%k @ %S)                 yield %N
 *     %w = solve %L, %rhs                    }
 *     carry %S + %k^T @ %w                   %loop = chunks (%S = %S0) {
 *     yield add (%q @ %S), (%P @ %w)  =>       %N = rows %before
 *   }                                          %P = mul (%q @ %b^T), %mask
 *                                              %rhs = add %v, (%k @ %S)
 *                                              %w = add %rhs, (%N @ %rhs)
 *                                              carry %S + %k^T @ %w
 *                                              yield add (%q @ %S), (%P @ %w)
 *                                            }
 *
 * What a later loop needs to carry its states on, as the gradients' sweep needs masked scores, the first one yields too. So what
 * goes before is the same for gradients as for their forward, which they take it from.
 *
 * Needs: fuse, differentiate. Guarantees: the same values; as many loops with states as before.
 */
import type { Pass } from "../../support/pass.ts";
import type { Program } from "../ir.ts";
import { splitUp } from "./split.ts";

export const splitChain: Pass<Program> = {
  name: "split-chain",
  summary: "compute side by side what loops need to carry states on, or need them for",
  run: (program, report) => splitUp(program, report, true),
};
