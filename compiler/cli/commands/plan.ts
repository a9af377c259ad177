/** laspc plan: the schedule for N devices as text, JSON or SVG; --simulate costs it on a fabric, --sweep at many sizes. */
import { printPlan, roundsText } from "../../schedule/print.ts";
import { isExchange, planOf, scheduleNames } from "../../schedule/index.ts";
import type { Sizes } from "../../../runtime/layout.ts";
import { planToSvg } from "../../schedule/svg.ts";
import { sweepToSvg } from "../../schedule/sweep-svg.ts";
import { sweep } from "../../schedule/sweep.ts";
import { Arguments, UsageError } from "../arguments.ts";
import { printSweep, sweepJson, sweepTitle } from "../sweep.ts";
import { compileFile, readSource, say, writeWhole } from "../files.ts";
import {
  type Setting,
  chosenSchedule,
  deviceSpeedOf,
  fabricOf,
  printSimulation,
  simulateAll,
  simulationJson,
} from "../simulation.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    [
      "entry",
      "devices",
      "mesh",
      "schedule",
      "backward",
      "overlap",
      "dim",
      "dtype",
      "svg",
      "simulate",
      "device-speed",
      "sweep",
      "model",
      "json",
    ],
    "plan",
  );
  if (args.text("simulate") !== null) return runSimulation(args);
  for (const name of ["sweep", "model"] as const) {
    if (args.text(name) !== null) throw new UsageError(`--${name} goes with --simulate FABRIC`);
  }
  const schedule = args.choice("schedule", [...scheduleNames, "auto"], "auto");
  const backward = args.flag("backward");
  const overlap = args.flag("overlap");
  const source = await readSource(args.file("plan"));
  const { manifest } = await compileFile(source, args, [], {
    dims: { K: 64, V: 64 },
    backward,
    overlap,
  });
  const mesh = args.mesh(2);
  const name = chosenSchedule(schedule, manifest, mesh, sizesOf(args), null);
  const plan = planOf(manifest, name, mesh, backward, overlap);
  await drawn(args, planToSvg(plan));
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(plan, null, 2)}\n`);
  else {
    const rounds = isExchange(name) ? roundsText(manifest) : null;
    process.stdout.write(`${rounds === null ? "" : `${rounds}\n`}${printPlan(plan)}`);
  }
  return 0;
}

/** Every schedule on the fabric, in bf16 unless told otherwise: what devices that sit on one compute in. */
async function runSimulation(args: Arguments): Promise<number> {
  const schedule = args.choice("schedule", [...scheduleNames, "auto"], "auto");
  const backward = args.flag("backward");
  const dtype = args.text("dtype") === null ? "bf16" : args.dtype();
  const source = await readSource(args.file("plan"));
  const dims = { K: 128, V: 128 };
  const { manifest } = await compileFile(source, args, [], { dims, dtype, backward });
  const setting: Setting = {
    manifest,
    mesh: args.mesh(2),
    backward,
    sizes: sizesOf(args),
    dtype,
    ...fabricOf(args),
    speed: await deviceSpeedOf(args),
  };
  if (args.text("sweep") !== null) return runSweep(args, setting);
  if (args.text("model") !== null) throw new UsageError("--model goes with --sweep");
  const all = simulateAll(setting);
  const chosen = chosenSchedule(schedule, manifest, setting.mesh, setting.sizes, setting.fabric);
  const simulated = all.get(chosen);
  if (simulated !== undefined && typeof simulated !== "string") {
    await drawn(args, planToSvg(simulated.plan, simulated.times));
  }
  if (args.flag("json")) {
    process.stdout.write(`${JSON.stringify(simulationJson(setting, all), null, 2)}\n`);
  } else process.stdout.write(printSimulation(setting, chosen, all));
  return 0;
}

/** Every schedule at every length and number of devices. */
async function runSweep(args: Arguments, setting: Setting): Promise<number> {
  if (args.text("mesh") !== null) throw new UsageError("--sweep takes devices=N..M, not --mesh");
  const { manifest, sizes, backward, mesh } = setting;
  const { tokens, devices } = args.sweep();
  const axes = { tokens: tokens ?? [sizes.T], devices: devices ?? [mesh.seq] };
  const model = args.model();
  const swept = sweep(manifest, sizes, axes, setting, backward, model);
  await drawn(args, sweepToSvg(swept, setting.speed, sweepTitle(setting, model)));
  if (args.flag("json")) {
    process.stdout.write(`${JSON.stringify(sweepJson(setting, model, swept), null, 2)}\n`);
  } else process.stdout.write(printSweep(setting, model, swept));
  return 0;
}

function sizesOf(args: Arguments): Sizes {
  const { B = 1, T = 65536, H = 16 } = args.dims();
  return { B, T, H };
}

async function drawn(args: Arguments, svg: string): Promise<void> {
  const path = args.text("svg");
  if (path === null) return;
  await writeWhole(path, svg);
  say(`drew ${path}`);
}
