/** What passes that change loops from within share. */
import type { RegionOwner } from "./build.ts";
import type { Chunks, Op, Program, ValueId } from "./ir.ts";
import { Facts } from "./loop-facts.ts";
import { Rewriter, rebuildLoop, resultOf } from "./rewrite.ts";

/** What an op inside a loop becomes; null: itself. */
export type Change = (op: Op, rewriter: Rewriter) => ValueId | null;

/** The program with what `changeOf` a loop makes of the ops inside it. */
export function rewriteLoops(
  program: Program,
  changeOf: (loop: Chunks, facts: Facts) => Change,
): Program {
  const rewriter = new Rewriter(program);
  for (const op of program.ops) {
    if (op.kind !== "chunks") {
      if (!rewriter.has(op.id)) rewriter.copy(op);
      continue;
    }
    const change = changeOf(op, new Facts(program, op));
    const owner = rebuildLoop(rewriter, op, () => {
      for (const inner of op.region.ops) {
        const changed = change(inner, rewriter);
        if (changed === null) rewriter.copy(inner);
        else rewriter.set(inner.id, changed);
      }
      return { carries: op.carries.map(rewriter.get), yields: op.yields.map(rewriter.get) };
    });
    bindResults(rewriter, program, op, owner);
  }
  return rewriter.finish(program.outputs);
}

/** Gives the results of a loop their values from the loop that stands for it. */
export function bindResults(
  rewriter: Rewriter,
  program: Program,
  op: Chunks,
  owner: RegionOwner,
): void {
  for (const result of program.ops) {
    if (result.kind !== "result" || result.of !== op.id) continue;
    rewriter.set(result.id, resultOf(rewriter.build, owner, result));
  }
  rewriter.set(op.id, owner.op);
}
