/** `laspc/cpu`: the target of processors. Apart, since it needs Node and the package llvm-bindings. */
import { createCpuTarget as create } from "../../codegen/cpu/target.ts";
import type { LoadedTarget } from "./types.ts";

export type { LoadedTarget } from "./types.ts";

/** For `targets` of `compile`. **Errors:** what is missing on this machine, and what installs it. */
export async function createCpuTarget(): Promise<LoadedTarget> {
  const target = await create();
  if ("missing" in target) throw new Error(`no code for the cpu: ${target.missing}`);
  return { ...target, name: "cpu" };
}
