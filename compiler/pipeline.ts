/**
 * The table of contents: every pass and lowering, in order, with why it stands here.
 * Nothing else decides order. An option picks a list, never a flag inside a pass.
 *
 *   text -> AST -> tensor program -> forms -> tile programs -> text of a target
 */
import type { Observer, Pass } from "./support/pass.ts";
import { Report, runPasses } from "./support/pass.ts";
import type { Program } from "./tensor/ir.ts";
import { chunk, chunkOf } from "./tensor/passes/chunk.ts";
import { differentiate } from "./tensor/passes/differentiate.ts";
import { fuse } from "./tensor/passes/fuse.ts";
import { gatherSums } from "./tensor/passes/gather-sums.ts";
import { rightProduct } from "./tensor/passes/right-product.ts";
import { type Sharded, shard, summaryOfGradient } from "./tensor/passes/shard.ts";
import { simplify } from "./tensor/passes/simplify.ts";
import { unstack } from "./tensor/passes/unstack.ts";
import { toTokens } from "./tensor/tokens.ts";
import { verifyTensor } from "./tensor/verify.ts";
import { type Lowered, type LoweringOptions, fromTensor } from "./tile/from-tensor.ts";
import type { TileProgram } from "./tile/ir.ts";
import type { Target } from "./tile/target.ts";
import { verifyTile } from "./tile/verify.ts";

/** On the whole attention, as the user wrote it. */
export const algebraPasses: readonly Pass<Program>[] = [
  // First, so that everything after sees one form of each expression.
  simplify,
  // Before anything that thinks in chunks or ranks: both need the scan.
  rightProduct(),
];

/** On each form that `shard` derives. */
export const formPasses: readonly Pass<Program>[] = passesWith(chunk);

/** On the decode step: chunks of one token. */
export const stepPasses: readonly Pass<Program>[] = passesWith(chunkOf(1));

function passesWith(chunking: Pass<Program>): readonly Pass<Program>[] {
  return [
    // The scan decides what is exchanged (shard); only then does it become loops.
    chunking,
    // After chunk, since loops are what code is fused into.
    fuse,
    // Last: fusing leaves duplicates behind.
    simplify,
  ];
}

/** On the forward's loops, for the gradients of all inputs. */
export const backwardPasses: readonly Pass<Program>[] = [
  // On loops, so that every chunk algorithm has its adjoint for nothing.
  differentiate,
  // Sums of cotangents from several loops stand outside of them until now.
  fuse,
  simplify,
  // When equal sums are one, so that those read once are.
  gatherSums,
  // Last, when it is plain what else reads the states.
  unstack,
];

/** On the gradients of all inputs, where only those of some are wanted. */
export const fewerGradientPasses: readonly Pass<Program>[] = [
  // What only the others need goes first; then states may be free.
  simplify,
  unstack,
];

/** The attention as scans: what is classified, sharded, and evaluated as the reference. */
export function toScans(program: Program, report: Report, observe?: Observer<Program>): Program {
  return runPasses(algebraPasses, program, verifyTensor, report, observe);
}

/** The forms of an attention, as scans; `cacheEvery`: tokens between the states kept for the gradient. */
export function toForms(scans: Program, cacheEvery: number | null = null): Sharded {
  const sharded = shard(scans, cacheEvery);
  for (const form of sharded.forms) verifyTensor(form.program, "shard");
  return sharded;
}

/** A form as fused chunk loops. */
export function toLoops(form: Program, report: Report, observe?: Observer<Program>): Program {
  return runPasses(formPasses, form, verifyTensor, report, observe);
}

/** The decode step as loops of one token. */
export function toStep(form: Program, report: Report, observe?: Observer<Program>): Program {
  return runPasses(stepPasses, form, verifyTensor, report, observe);
}

/** The gradients of a form, from its loops: two loops where it had one. */
export function toBackwardLoops(
  loops: Program,
  report: Report,
  observe?: Observer<Program>,
): Program {
  return runPasses(backwardPasses, loops, verifyTensor, report, observe);
}

/** The same without those of inputs that all tokens share: decays of heads, weights. */
export function toFixedLoops(gradient: Program, report: Report): Program {
  return runPasses(fewerGradientPasses, withoutShared(gradient), verifyTensor, report);
}

/** A form of gradients without those of inputs that all tokens share. */
export function withoutShared(gradient: Program): Program {
  const outputs = gradient.outputs.filter(({ per }) => per !== "head" && per !== "shared");
  return outputs.length === gradient.outputs.length ? gradient : { ...gradient, outputs };
}

/** The gradients of a form, token by token: what the reference evaluates. */
export function toGradient(form: Program): Program {
  return runPasses([differentiate], toTokens(form), verifyTensor, new Report());
}

/** What a range adds to the cotangents of its first states of a level: of either form of the gradients. */
export function toGradientSummary(gradient: Program, { states }: Sharded, level: number): Program {
  const summary = summaryOfGradient(gradient, states, level);
  verifyTensor(summary, "shard");
  return summary;
}

/** A form as kernels that are legal for a target. */
export function toKernels(
  form: Program,
  target: Pick<Target, "limits" | "prepare" | "legalize">,
  options: Omit<LoweringOptions, "limits">,
  report: Report,
  observe?: Observer<TileProgram>,
): Lowered {
  const prepared = runPasses(target.prepare ?? [], form, verifyTensor, report);
  const lowered = fromTensor(prepared, { ...options, limits: target.limits });
  verifyTile(lowered.program, "from-tensor");
  observe?.("from-tensor", lowered.program, true);
  const program = runPasses(target.legalize, lowered.program, verifyTile, report, observe);
  return { ...lowered, program };
}
