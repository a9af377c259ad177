/** A plan of ours that is wrong is a bug. */
import type { Manifest, Plan } from "../../runtime/plan.ts";
import { planProblem } from "../../runtime/verify-plan.ts";
import { CompilerBug } from "../support/never.ts";
import { printPlan } from "./print.ts";

/** Throws CompilerBug that says which rank and step is wrong. */
export function verifyPlan(plan: Plan, manifest: Manifest): void {
  const problem = planProblem(plan, manifest);
  if (problem !== null) throw new CompilerBug(`plan ${plan.name}: ${problem}`, printPlan(plan));
}
