/** laspc plan --simulate --sweep: tokens per second and the longest sequence of every schedule, as text and JSON. */
import { type ScheduleName, scheduleNames } from "../schedule/index.ts";
import { type Model, type Sweep, longest } from "../schedule/sweep.ts";
import type { Setting } from "./simulation.ts";

export function sweepTitle(setting: Setting, model: Model | null): string {
  const { manifest, sizes, dtype, backward, fabricName, speed } = setting;
  const dims = Object.entries(manifest.dims).map(([name, size]) => `${name}=${size}`);
  const around = model
    ? `${model.layers} layers of a model of ${model.parameters / 1e9} B parameters`
    : "one attention";
  return `${manifest.name} on ${speed.name}, ${fabricName}: B=${sizes.B} H=${sizes.H} ${dims.join(" ")} ${dtype}, ${backward ? "with gradients" : "forwards"}, ${around}`;
}

/** A table for each number of devices: a row for each length, a column for each schedule. */
export function printSweep(setting: Setting, model: Model | null, swept: Sweep): string {
  const lines = [
    sweepTitle(setting, model),
    "tokens/s of all devices; -: more than a device's memory",
  ];
  const { points, unsupported } = swept;
  for (const devices of unique(points.map((point) => point.devices))) {
    const here = points.filter((point) => point.devices === devices);
    const schedules = scheduleNames.filter((name) => here.some((one) => one.schedule === name));
    const header = schedules.map((name) => {
      const { perSequence } = here.find(({ schedule }) => schedule === name)!;
      return perSequence === devices ? name : `${name}/${perSequence}`;
    });
    lines.push("", row([`${devices} devices`, ...header]));
    for (const tokens of unique(here.map((point) => point.tokens))) {
      const cell = (name: ScheduleName) => {
        const point = here.find((one) => one.schedule === name && one.tokens === tokens)!;
        return point.fits ? point.tokensPerS.toExponential(2) : "-";
      };
      lines.push(row([lengthText(tokens), ...schedules.map(cell)]));
    }
    const longestOf = (name: ScheduleName) => lengthText(longest(swept, name, devices));
    lines.push(row(["longest", ...schedules.map(longestOf)]));
  }
  const shared = points.some(({ perSequence, devices }) => perSequence !== devices);
  if (shared)
    lines.push("", "/N: N devices share a sequence, no more than heads, the others have their own");
  const reasons = unsupported.map(({ schedule, why }) => `${schedule}: ${why}`);
  return `${[...lines, ...unique(reasons)].join("\n")}\n`;
}

export function sweepJson(setting: Setting, model: Model | null, swept: Sweep): object {
  const { manifest, sizes, dtype, backward, fabricName, speed } = setting;
  return {
    entry: manifest.name,
    fabric: fabricName,
    device: speed.name,
    device_memory_bytes: speed.memoryBytes,
    dims: { B: sizes.B, H: sizes.H, ...manifest.dims },
    dtype,
    backward,
    model,
    points: swept.points.map((point) => ({
      schedule: point.schedule,
      devices: point.devices,
      devices_per_sequence: point.perSequence,
      tokens: point.tokens,
      tokens_per_s: point.tokensPerS,
      memory_bytes_per_device: point.memoryBytes,
      fits: point.fits,
    })),
    unsupported: swept.unsupported,
  };
}

/** 2048: 2K. */
export function lengthText(tokens: number): string {
  return tokens % 1024 === 0 ? `${tokens / 1024}K` : `${tokens}`;
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

function row([first, ...rest]: readonly string[]): string {
  return `${first!.padEnd(12)}${rest.map((text) => text.padStart(15)).join("")}`;
}
