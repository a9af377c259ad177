/** The shipped attentions, compiled and run: what most tests start from. */
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { referencePrograms } from "../../compiler/cli/devices.ts";
import { artifactOf } from "../../compiler/cli/files.ts";
import {
  type Reference,
  compareWithReference,
  referenceResult,
} from "../../compiler/cli/reference.ts";
import { type CompileOptions, type Compiled, compile } from "../../compiler/index.ts";
import { type ScheduleName, planOf } from "../../compiler/schedule/index.ts";
import type { Source } from "../../compiler/support/span.ts";
import type { Device, HostTensor, LaunchSizes } from "../../runtime/device.ts";
import { type Mesh, formsOf } from "../../runtime/plan.ts";
import { type RanksResult, runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { randomInputs } from "./inputs.ts";

const folder = join(import.meta.dirname, "../../dsl-examples");

/** Rules that are not shipped, but that people will write. */
const rulesFolder = join(import.meta.dirname, "../rules");

function namesIn(path: string): string[] {
  return readdirSync(path)
    .filter((name) => name.endsWith(".lasp"))
    .map((name) => name.replace(".lasp", ""));
}

export const exampleNames = namesIn(folder);
export const ruleNames = namesIn(rulesFolder);

/** A shipped attention, or one of test/rules. */
export function exampleSource(name: string): Source {
  const path = join(ruleNames.includes(name) ? rulesFolder : folder, `${name}.lasp`);
  return { name: `${name}.lasp`, text: readFileSync(path, "utf8") };
}

export const defaults: CompileOptions = {
  dims: { K: 64, V: 64 },
  dtype: "f32",
  entry: null,
  targets: [],
};

/** Compiles a text or throws with its diagnostics. */
export function compileText(text: string, options: Partial<CompileOptions> = {}): Compiled {
  const outcome = compile({ name: "test.lasp", text }, { ...defaults, ...options });
  if (outcome.value === null) {
    throw new Error(outcome.diagnostics.map((d) => `${d.code}: ${d.message}`).join("\n"));
  }
  return outcome.value;
}

export function compileExample(name: string, options: Partial<CompileOptions> = {}): Compiled {
  return compileText(exampleSource(name).text, options);
}

export function sizesOf(sizes: Partial<LaunchSizes> & { T: number }): LaunchSizes {
  return { B: 1, H: 2, T_total: sizes.T, token_offset: 0, heads: {}, ...sizes };
}

/** What `runRing` launches, by any number of devices beyond one. */
export function ringForms({ manifest }: Compiled): string[] {
  return formsOf(planOf(manifest, "ring", 3).ranks);
}

/** Runs an attention on a ring of loaded devices. */
export async function runRing(
  compiled: Compiled,
  devices: readonly Device[],
  inputs: ReadonlyMap<string, HostTensor>,
  sizes: LaunchSizes,
): Promise<RanksResult> {
  const { manifest } = compiled;
  const plan = planOf(manifest, "ring", devices.length);
  const transports = inProcessTransports(devices.length);
  return runRanks({ plan, manifest, devices, transports, inputs, sizes });
}

/** Runs forward and backward on one loaded device. */
export async function runBackward(
  compiled: Compiled,
  device: Device,
  inputs: ReadonlyMap<string, HostTensor>,
  sizes: LaunchSizes,
  mesh: number | Mesh = 1,
  schedule: ScheduleName = "ring",
): Promise<RanksResult> {
  const { manifest } = compiled;
  const plan = planOf(manifest, schedule, mesh, true);
  const transports = inProcessTransports(plan.ranks.length);
  const devices = plan.ranks.map(() => device);
  return runRanks({ plan, manifest, devices, transports, inputs, sizes });
}

/** What the reference made of inputs, by their content: runs on any ranks, by any schedule, are compared with it. */
const references = new WeakMap<Compiled, Map<string, Promise<Reference>>>();

export async function compare(
  compiled: Compiled,
  inputs: ReadonlyMap<string, HostTensor>,
  sizes: LaunchSizes,
  result: RanksResult,
) {
  const options = { compiled, inputs, sizes, say: () => {} };
  const known = references.get(compiled) ?? new Map<string, Promise<Reference>>();
  references.set(compiled, known);
  const content = createHash("sha256").update(JSON.stringify(sizes));
  for (const [name, { data }] of inputs) {
    content.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const key = content.digest("hex");
  const reference = known.get(key) ?? referenceResult(options);
  known.set(key, reference);
  return compareWithReference({ ...options, result, reference: await reference });
}

export { artifactOf, randomInputs, referencePrograms };
