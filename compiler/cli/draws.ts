/** Inputs of other kinds than those a run was given: what random gates forget, weak ones keep. */
import type { HostTensor, LaunchSizes } from "../../runtime/device.ts";
import type { Manifest } from "../../runtime/plan.ts";
import { type Draw, draws, isGate } from "../../runtime/random.ts";
import type { RanksResult } from "../../runtime/run.ts";
import type { Compiled } from "../index.ts";
import type { Data } from "./data.ts";
import { compareWithReference } from "./reference.ts";

/** Those that differ from what is declared, for inputs such as these. */
export function otherDraws({ inputs }: Manifest): Draw[] {
  const hasGates = inputs.some(({ range }) => isGate(range));
  const others = draws.filter((draw) => draw !== "declared");
  return hasGates ? others : others.filter((draw) => draw === "constant");
}

/** What one kind of inputs gave. */
export interface DrawnRun {
  readonly ok: boolean;
  /** The worst output's. */
  readonly rmse_ratio: number;
  /** Outputs beyond their tolerance and beyond what rounding leaves: `d_g 5.6e-3`. */
  readonly wrong: readonly string[];
}

/** Tokens of such a run at most: the reference takes its time. */
const longestDrawn = 256;

/** Runs an attention on inputs of the other kinds, each compared with the reference. Nothing where inputs are files. */
export async function verifyDraws(
  compiled: Compiled,
  data: Data,
  execute: (inputs: ReadonlyMap<string, HostTensor>, sizes: LaunchSizes) => Promise<RanksResult>,
): Promise<Partial<Record<Draw, DrawnRun>>> {
  const found: Partial<Record<Draw, DrawnRun>> = {};
  if (data.hasFiles) return found;
  for (const draw of otherDraws(compiled.manifest)) {
    const { inputs, sizes } = data.complete(compiled, { longest: longestDrawn, draw });
    const result = await execute(inputs, sizes);
    const compared = await compareWithReference({ compiled, inputs, sizes, result, say: () => {} });
    const wrong = compared.wrong.map(
      (name) => `${name} ${compared.outputs[name]!.rmse_ratio.toExponential(1)}`,
    );
    found[draw] = { ok: compared.ok, rmse_ratio: worstRatio(compared.outputs), wrong };
  }
  return found;
}

/** Of all outputs of a comparison; NaN where one is. */
export function worstRatio(outputs: Readonly<Record<string, { rmse_ratio: number }>>): number {
  return Math.max(0, ...Object.values(outputs).map((output) => output.rmse_ratio));
}
