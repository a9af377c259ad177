/** One rule run one way: on so many ranks, by a schedule, in a form, with inputs of some kind; against float64. */
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { turnFactors } from "../../codegen/cpu/legalize.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { makeDevice, targetsFor } from "../../compiler/cli/devices.ts";
import { artifactOf } from "../../compiler/cli/files.ts";
import { compareWithReference } from "../../compiler/cli/reference.ts";
import { type Compiled, compile } from "../../compiler/index.ts";
import { type ExchangeName, exchangeNames, planOf } from "../../compiler/schedule/index.ts";
import { Unsupported } from "../../compiler/support/never.ts";
import type { Target } from "../../compiler/tile/target.ts";
import { decode } from "../../runtime/decode.ts";
import type { Device, HostTensor, LaunchSizes } from "../../runtime/device.ts";
import { formsOf } from "../../runtime/plan.ts";
import { type Draw, draws } from "../../runtime/random.ts";
import { type RanksResult, runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { randomInputs } from "../support/inputs.ts";
import { TileDevice, interpretedTarget } from "../support/tile-device.ts";
import type { Dice } from "./dice.ts";
import type { Rule } from "./grammar.ts";

/** `tile-*`: kernels of that target on the interpreter of tiles. */
export const cellDevices = ["tile-cpu", "tile-wgsl", "tile-cuda", "cpu", "webgpu"] as const;
export type CellDevice = (typeof cellDevices)[number];

export interface Cell {
  readonly device: CellDevice;
  readonly schedule: ExchangeName;
  /** Ranks along the sequence, and groups of them that share out the batch. */
  readonly ranks: number;
  readonly data: number;
  readonly backward: boolean;
  readonly overlap: boolean;
  /** Tokens at the end that are decoded one by one. */
  readonly steps: number;
  /** Tokens of the segments that a device cuts sequences into; 0: they stay whole. */
  readonly segment: number;
  /** Tokens between the states that the forward keeps; 0: none. */
  readonly cacheStates: number;
  /** Lengths of packed sequences; null: B sequences of T tokens. */
  readonly packed: readonly number[] | null;
  readonly B: number;
  readonly T: number;
  readonly H: number;
  /** Heads of all inputs of tokens but the first, of which H is a multiple. */
  readonly groups: number;
  readonly initial: boolean;
  /** How inputs are drawn; "each": each in a way of its own. */
  readonly draw: Draw | "each";
  readonly seed: number;
}

export type Outcome =
  | { readonly kind: "ok" }
  /** By a diagnostic or an `Unsupported`. */
  | { readonly kind: "refused"; readonly code: string }
  /** Tensors beyond their tolerance, and how far off the worst one is. */
  | { readonly kind: "wrong"; readonly what: string; readonly worst: number }
  | { readonly kind: "crash"; readonly what: string };

const interpreted: Readonly<Record<string, Target>> = {
  "tile-cpu": interpretedTarget({
    ...wgslTarget,
    name: "cpu",
    limits: {
      ...wgslTarget.limits,
      threads: 1,
      chunks: [32],
      columnBlocks: [],
      tileRegisters: Infinity,
    },
    legalize: [turnFactors],
  }),
  "tile-wgsl": interpretedTarget({
    ...wgslTarget,
    // Blocks of 16 columns, so that small sizes are cut too.
    limits: { ...wgslTarget.limits, chunks: [16], columnBlocks: [16], tileRegisters: 0 },
  }),
  "tile-cuda": interpretedTarget(cudaTarget),
};
const chunk = 32;

/** A way to run a rule on one of the devices. Sizes stay such that a run takes a fraction of a second. */
export function drawCell(dice: Dice, devices: readonly CellDevice[]): Cell {
  const device = dice.pick(devices);
  const ranks = dice.pick([1, 1, 2, 3, 3, 5]);
  const mode = dice.pick(["plain", "plain", "packed", "segments", "cache", "steps"] as const);
  const isSteps = mode === "steps";
  const backward = !isSteps && dice.chance(0.5);
  const T = dice.pick([0, 1, 7, chunk - 1, chunk, chunk + 1, 50, 70, 70, 100, 150]);
  const B = dice.pick([1, 1, 2, 3]);
  const H = dice.pick([1, 2, 2, 3]);
  const packed =
    mode === "packed" || (mode === "cache" && dice.chance(0.3))
      ? Array.from({ length: 1 + dice.below(4) }, () => dice.pick([0, 1, 5, chunk, 41, 66]))
      : null;
  const longest = packed === null ? T : Math.max(...packed);
  return {
    device,
    schedule: dice.pick(exchangeNames),
    ranks: isSteps ? 1 : ranks,
    data: !isSteps && packed === null && B > 1 && dice.chance(0.2) ? 2 : 1,
    backward,
    overlap: mode === "plain" && dice.chance(0.3),
    steps: isSteps ? dice.pick([1, 2, 3]) : 0,
    segment: mode === "segments" ? dice.pick([8, 16, 24, 48]) : 0,
    cacheStates: mode === "cache" ? dice.pick([64, 128]) : 0,
    packed,
    B: packed?.length ?? B,
    T: packed?.reduce((sum, length) => sum + length, 0) ?? T,
    H,
    groups: dice.chance(0.3) ? 1 : H,
    // Of a state that begins at zero the first decay's gradient is zero, and of one token there is no other.
    initial: longest < 2 || dice.chance(0.4),
    draw: dice.pick([...draws, "each", "each", "mixed"]),
    seed: dice.below(1000),
  };
}

/** Never throws, but for what is no matter of the rule: a device that is not there. */
export async function runCell(rule: Rule, cell: Cell): Promise<Outcome> {
  try {
    const source = { name: "rule.lasp", text: rule.text };
    const { backward, overlap, cacheStates } = cell;
    const { value, diagnostics } = compile(source, {
      dims: rule.dims,
      dtype: "f32",
      entry: null,
      targets: await targetsOf(cell.device),
      backward,
      overlap,
      cacheStates: cacheStates === 0 ? null : cacheStates,
    });
    if (value !== null) return await runCompiled(value, cell);
    const errors = diagnostics.filter(({ severity }) => severity === "error");
    return { kind: "refused", code: errors[0]!.code };
  } catch (error) {
    if (error instanceof Unsupported) return { kind: "refused", code: "Unsupported" };
    return { kind: "crash", what: String((error as Error).stack ?? error) };
  }
}

async function runCompiled(compiled: Compiled, cell: Cell): Promise<Outcome> {
  const { manifest } = compiled;
  const { schedule, ranks, data, backward, overlap, steps } = cell;
  const isDecoded = steps > 0 && manifest.forms.some(({ name }) => name === "step");
  const plan = planOf(manifest, schedule, { seq: ranks, data }, backward, overlap);
  const device = await open(compiled, cell, isDecoded ? ["forward", "step"] : formsOf(plan.ranks));
  const sizes = sizesOf(compiled, cell);
  const inputs = inputsOf(compiled, cell, sizes);
  let result: RanksResult;
  if (isDecoded) {
    const tensors = await decode({ manifest, device, inputs, sizes, steps });
    result = { tensors, bytesSent: [0], messagesSent: [0], times: [] };
  } else {
    const devices = plan.ranks.map(() => device);
    const transports = inProcessTransports(plan.ranks.length);
    result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
  }
  await device.close();
  const { wrong, outputs } = await compareWithReference({
    compiled,
    inputs,
    sizes,
    result,
    say: () => {},
  });
  if (wrong.length === 0) return { kind: "ok" };
  const ratios = wrong.map((name) => [name, outputs[name]!.rmse_ratio] as const);
  ratios.sort(([, a], [, b]) => b - a);
  const what = ratios.map(([name, ratio]) => `${name} ${ratio.toExponential(1)}`).join(", ");
  return { kind: "wrong", what, worst: ratios[0]![1] };
}

async function targetsOf(device: CellDevice): Promise<Target[]> {
  const own = interpreted[device];
  return own ? [own] : targetsFor([device as "cpu" | "webgpu"]);
}

async function open(compiled: Compiled, cell: Cell, forms: readonly string[]): Promise<Device> {
  const device =
    cell.device === "cpu" || cell.device === "webgpu"
      ? await makeDevice(cell.device, { threads: 1, poison: true })
      : new TileDevice({ segment: cell.segment === 0 ? null : cell.segment });
  await device.load(artifactOf(compiled), forms);
  return device;
}

function sizesOf({ manifest }: Compiled, { B, T, H, groups, packed }: Cell): LaunchSizes {
  const others = manifest.inputs.slice(1).filter(({ per }) => per === "token" || per === "head");
  const heads = groups === H ? {} : Object.fromEntries(others.map(({ name }) => [name, groups]));
  const sizes = { B, T, H, T_total: T, token_offset: 0, heads };
  if (packed === null) return sizes;
  const cuSeqlens = [0];
  for (const length of packed) cuSeqlens.push(cuSeqlens.at(-1)! + length);
  return { ...sizes, cuSeqlens };
}

function inputsOf(
  compiled: Compiled,
  { draw, seed, initial }: Cell,
  sizes: LaunchSizes,
): Map<string, HostTensor> {
  if (draw !== "each") return randomInputs(compiled, sizes, { seed, initial, draw });
  const all = draws.map((own) => randomInputs(compiled, sizes, { seed, initial, draw: own }));
  return new Map(
    [...all[0]!.keys()].map((name, i) => [name, all[(seed + i) % all.length]!.get(name)!]),
  );
}
