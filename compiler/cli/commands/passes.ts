/** laspc passes: the registry, in the order of the pipeline. */
import { turnFactors } from "../../../codegen/cpu/legalize.ts";
import { tensorPasses } from "../../../codegen/cuda/target.ts";
import { wgslTarget } from "../../../codegen/wgsl/target.ts";
import { algebraPasses, backwardPasses, formPasses } from "../../pipeline.ts";
import { segmentName, segmentSummary } from "../../tensor/passes/segment.ts";
import { shardName, shardSummary } from "../../tensor/passes/shard.ts";
import { split } from "../../tensor/passes/split.ts";
import { splitChain } from "../../tensor/passes/split-chain.ts";
import { Arguments } from "../arguments.ts";

export function run(argv: readonly string[]): number {
  new Arguments(argv, [], "passes");
  const lines = [
    ...algebraPasses,
    { name: shardName, summary: shardSummary },
    { name: segmentName, summary: segmentSummary },
    ...formPasses,
    ...backwardPasses,
    splitChain,
    split,
    { name: "from-tensor", summary: "lower chunk loops to kernels on tiles" },
    ...wgslTarget.legalize,
    ...tensorPasses,
    turnFactors,
  ];
  const seen = new Set<string>();
  for (const { name, summary } of lines) {
    if (!seen.has(name)) process.stdout.write(`${name.padEnd(17)}${summary}\n`);
    seen.add(name);
  }
  return 0;
}
