/** laspc plan --simulate: the plan on a fabric that is not here, beside every other schedule. */
import { type Manifest, type Mesh, type Plan, levelsOf, worldSize } from "../../runtime/plan.ts";
import { type DeviceSpeed, type Fabric, deviceSpeeds, fabricNames } from "../schedule/fabrics.ts";
import { fabrics, slowestLink } from "../schedule/fabrics.ts";
import { cheapest } from "../schedule/auto.ts";
import { type ScheduleName, planOf, scheduleNames } from "../schedule/index.ts";
import { roundsText, stepText } from "../schedule/print.ts";
import { type Simulation, simulate } from "../schedule/simulate.ts";
import type { Sizes } from "../../runtime/layout.ts";
import { Unsupported } from "../support/never.ts";
import { type Arguments, UserError } from "./arguments.ts";
import { readText } from "./reading.ts";

export interface Setting {
  readonly manifest: Manifest;
  readonly mesh: Mesh;
  readonly backward: boolean;
  readonly sizes: Sizes;
  readonly dtype: string;
  readonly fabricName: string;
  readonly fabric: Fabric;
  readonly speed: DeviceSpeed;
}

export interface Simulated extends Simulation {
  readonly plan: Plan;
}

/** `--simulate infiniband`, or `--simulate latency=20ms,bandwidth=1GB/s`: one link between all. */
export function fabricOf(args: Arguments): { fabricName: string; fabric: Fabric } {
  const text = args.text("simulate")!;
  if (text.includes("=")) {
    const { latencyMs, bandwidth } = args.link("simulate")!;
    const link = { latencyS: latencyMs / 1e3, bytesPerS: bandwidth };
    const fabric = { perNode: Infinity, within: link, between: link, source: "the command line" };
    return { fabricName: text, fabric };
  }
  const fabricName = args.choice("simulate", fabricNames, "nvlink");
  return { fabricName, fabric: fabrics[fabricName] };
}

/** `--device-speed h200|a100|F.json`: a device by name, or what `laspc bench --json` wrote of one. */
export async function deviceSpeedOf(args: Arguments): Promise<DeviceSpeed> {
  const text = args.text("device-speed") ?? "h200";
  const known = Object.hasOwn(deviceSpeeds, text) ? deviceSpeeds[text] : undefined;
  if (known) return known;
  if (!text.endsWith(".json")) {
    const names = Object.keys(deviceSpeeds).join(", ");
    throw new UserError(`--device-speed is one of ${names}, or a FILE.json of laspc bench --json`);
  }
  let value: unknown;
  try {
    value = JSON.parse(await readText(text));
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`cannot read ${text}: ${(error as Error).message}`);
  }
  const { device, gb_per_s } = value as { device?: unknown; gb_per_s?: unknown };
  if (typeof device !== "string" || typeof gb_per_s !== "number" || !(gb_per_s > 0)) {
    throw new UserError(`${text} is not what laspc bench --json writes: no device and gb_per_s`);
  }
  return measuredSpeed(device, gb_per_s * 1e9, 0);
}

/** A device of which the achieved bandwidth is known: it holds the products too. */
export function measuredSpeed(name: string, bytesPerS: number, launchS: number): DeviceSpeed {
  const free = { forward: Infinity, backward: Infinity };
  const same = { forward: 1, backward: 1 };
  return {
    name,
    bytesPerS,
    flopsPerS: { scalar: free, diagonal: free, dense: free },
    matmulFlopsPerS: Infinity,
    launchS,
    processors: 1,
    segmented: { scalar: same, diagonal: same, dense: same },
    memoryBytes: Infinity,
    source: "laspc bench",
  };
}

/**
 * `auto`: what costs least over the slowest link that the ranks of a sequence use; the ring where there is none (null),
 * which does the least work in all.
 */
export function chosenSchedule(
  name: ScheduleName | "auto",
  manifest: Manifest,
  mesh: Mesh,
  { B, T, H }: Sizes,
  fabric: Fabric | null,
): ScheduleName {
  if (name !== "auto") return name;
  if (fabric === null) return "ring";
  const sizes = { B: Math.ceil(B / mesh.data), T, H };
  return cheapest(manifest, mesh.seq, slowestLink(fabric, mesh.seq), sizes);
}

/** One schedule in this setting, or why it cannot be. */
export function simulateSchedule(schedule: ScheduleName, setting: Setting): Simulated | string {
  const { manifest, mesh, backward, sizes, fabric, speed } = setting;
  try {
    const plan = planOf(manifest, schedule, mesh, backward);
    return { plan, ...simulate(plan, manifest, sizes, { fabric, speed }) };
  } catch (error) {
    if (error instanceof Unsupported) return error.message;
    throw error;
  }
}

export function simulateAll(setting: Setting): Map<ScheduleName, Simulated | string> {
  return new Map(scheduleNames.map((name) => [name, simulateSchedule(name, setting)]));
}

/** The chosen schedule step by step, and a line for each of the others. */
export function printSimulation(
  setting: Setting,
  chosen: ScheduleName,
  all: ReadonlyMap<ScheduleName, Simulated | string>,
): string {
  const { manifest, mesh, sizes, dtype, backward, fabricName, speed } = setting;
  const dims = { ...sizes, ...manifest.dims } as Record<string, unknown>;
  const shown = Object.entries(dims).flatMap(([name, size]) =>
    typeof size === "number" ? [`${name}=${size}`] : [],
  );
  const rounds = roundsText(manifest);
  const lines = [
    `${manifest.name} on ${worldSize(mesh)} x ${speed.name}, ${fabricName}: ${shown.join(" ")} ${dtype}, ${backward ? "with gradients" : "forwards"}`,
    ...(rounds === null ? [] : [rounds]),
    "",
    row(["schedule", "time", "sent", "received", "peak memory"]),
  ];
  const left: string[] = [];
  for (const [name, one] of all) {
    if (typeof one === "string") left.push(`${name}: ${one}`);
    else lines.push(row([name, milliseconds(one.seconds), ...columnsOf(one)]));
  }
  lines.push("bytes and memory are those of the rank that has most", ...left);
  const path = all.get(chosen);
  if (path !== undefined && typeof path !== "string") {
    lines.push("", `what the end of ${chosen} waits for`);
    for (const { rank, step, start, end } of path.critical) {
      const text = stepText(path.plan.ranks[rank]!.steps[step]!);
      lines.push(`  ${microseconds(start)} to ${microseconds(end)} us  device ${rank}  ${text}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

export function simulationJson(
  setting: Setting,
  all: ReadonlyMap<ScheduleName, Simulated | string>,
): object {
  const { manifest, mesh, sizes, dtype, backward, fabricName, speed } = setting;
  return {
    entry: manifest.name,
    fabric: fabricName,
    device: speed.name,
    devices: worldSize(mesh),
    mesh,
    dims: { ...sizes, ...manifest.dims },
    dtype,
    backward,
    rounds: levelsOf(manifest.states).length,
    schedules: [...all].map(([schedule, one]) =>
      typeof one === "string"
        ? { schedule, unsupported: one }
        : {
            schedule,
            seconds: one.seconds,
            bytes_sent_per_rank: one.bytesSent,
            bytes_received_per_rank: one.bytesReceived,
            peak_bytes_per_rank: one.peakBytes,
            critical_path: one.critical.map(({ rank, step, start, end }) => ({
              rank,
              step: stepText(one.plan.ranks[rank]!.steps[step]!),
              start,
              end,
            })),
          },
    ),
  };
}

function columnsOf({ bytesSent, bytesReceived, peakBytes }: Simulation): string[] {
  return [bytesSent, bytesReceived, peakBytes].map((values) => byteText(Math.max(...values)));
}

function row([first, ...rest]: readonly string[]): string {
  return `${first!.padEnd(16)}${rest.map((text) => text.padStart(13)).join("")}`;
}

export function milliseconds(seconds: number): string {
  return `${(seconds * 1e3).toFixed(3)} ms`;
}

function microseconds(seconds: number): string {
  return (seconds * 1e6).toFixed(1).padStart(9);
}

export function byteText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`;
}
