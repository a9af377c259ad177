/** laspc run: compile and execute, on one device or a ring of them; --verify against the reference. */
import { availableParallelism } from "node:os";
import { RankError, digestOf, runRankOverTcp } from "../../../runtime/transports/tcp-rank.ts";
import { runRanksInWorkers } from "../../../runtime/transports/worker.ts";
import { slowTransport } from "../../../runtime/transports/slow.ts";
import { inProcessTransports } from "../../../runtime/transports/in-process.ts";
import { decode } from "../../../runtime/decode.ts";
import type { Device, HostTensor, LaunchSizes } from "../../../runtime/device.ts";
import { orderProblem } from "../../../runtime/ordered.ts";
import { formsOf } from "../../../runtime/plan.ts";
import { ownOf } from "../../../runtime/records.ts";
import { type RanksResult, type RanksRun, runRanks } from "../../../runtime/run.ts";
import { ncclTransports } from "../../../runtime/transports/nccl.ts";
import { planOf, scheduleNames } from "../../schedule/index.ts";
import { planToSvg } from "../../schedule/svg.ts";
import { printTensor } from "../../tensor/print.ts";
import { chosenSchedule } from "../simulation.ts";
import { type Fabric, fabrics } from "../../schedule/fabrics.ts";
import { Arguments, UsageError, UserError } from "../arguments.ts";
import { devicesFor, makeDevice, openDevice, targetsFor } from "../devices.ts";
import { launchHere, localRankHere, lostSignal, startRanks } from "../launch.ts";
import { compileFile, readSource, say, writeWhole } from "../files.ts";
import { type Data, checkRanges, gatherInputs, writeOutputs } from "../data.ts";
import { patiently } from "../patience.ts";
import { type DrawnRun, verifyDraws } from "../draws.ts";
import { type Comparison, compareWithReference } from "../reference.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    [
      "entry",
      "device",
      "devices",
      "mesh",
      "schedule",
      "dim",
      "dtype",
      "arch",
      "input",
      "output",
      "seed",
      "threads",
      "segment",
      "transport",
      "timeout",
      "link",
      "connect-timeout",
      "bind",
      "timeline",
      "warmup",
      "verify",
      "json",
      "check-inputs",
      "backward",
      "overlap",
      "cache-states",
      "steps",
      "cu-seqlens",
      "deterministic",
    ],
    "run",
  );
  const backward = args.flag("backward");
  const overlap = args.flag("overlap");
  const steps = args.integer("steps", 0, 0);
  const source = await readSource(args.file("run"));
  const launched = launchHere();
  const transport = args.choice(
    "transport",
    ["in-process", "worker", "tcp", "nccl", "nccl-in-process"],
    launched && launched.ranks > 1 ? "tcp" : "in-process",
  );
  const isNccl = transport === "nccl" || transport === "nccl-in-process";
  const isProcesses = transport === "tcp" || transport === "nccl";
  const launch = isProcesses ? launched : null;
  const mesh = args.mesh(launch?.ranks ?? 1);
  const ranks = mesh.seq * mesh.data;
  const schedule = args.choice("schedule", [...scheduleNames, "auto"], "auto");
  const names = devicesFor(args.text("device") ?? "cpu", ranks);
  if (isNccl && names.some((name) => name !== "cuda")) {
    throw new UsageError(`--transport ${transport} moves what is on GPUs: say --device cuda`);
  }
  if (isNccl && args.link() !== null) {
    throw new UsageError(
      `--link slows messages of the host, which --transport ${transport} has none of`,
    );
  }
  if (isProcesses && !launch) return startRanks(ranks, argv);
  if (launch && launch.ranks !== ranks) {
    throw new UsageError(`${ranks} devices are asked for, but ${launch.ranks} ranks were started`);
  }
  // Ranks beside the first compute, and leave the talking to it.
  const talk = launch && launch.rank > 0 ? () => {} : say;
  const data: Data = await gatherInputs(args, source);
  const started = performance.now();
  const compiled = await compileFile(source, args, await targetsFor(names, args.architecture()), {
    dims: data.dims,
    backward,
    overlap,
    cacheStates: args.cacheStates(),
  });
  const { manifest } = compiled;
  const { inputs, sizes } = data.complete(compiled);
  if (args.flag("check-inputs")) checkRanges(manifest, inputs);
  if (steps > 0 && (backward || ranks > 1)) {
    throw new UsageError("--steps decodes on one device, forwards");
  }
  if (overlap && args.cacheStates() !== null) {
    throw new UsageError("--overlap keeps no states: leave --cache-states out");
  }
  if (sizes.cuSeqlens && steps > 0) {
    throw new UsageError("--steps decodes sequences of one length, without --cu-seqlens");
  }
  const plan = planOf(
    manifest,
    chosenSchedule(schedule, manifest, mesh, sizes, fabricOf(transport)),
    mesh,
    backward,
    overlap,
  );
  const problem = isNccl ? orderProblem(plan) : null;
  if (problem !== null) throw new UserError(problem);
  talk(`compiled ${manifest.name} in ${(performance.now() - started).toFixed(0)} ms`);
  for (const note of compiled.notes) talk(`  ${note.pass}: ${note.message}`);
  const threads = args.text("threads") === null ? null : args.integer("threads", 1, 1);
  // Ranks of one kind share a device: its queue and its threads are the machine's, not the rank's.
  const timeoutMs = args.seconds("timeout", 60) * 1000;
  const poison = args.flag("verify");
  const deterministic = args.flag("deterministic");
  const segment = deterministic && args.text("segment") === null ? "never" : args.segment();
  if (deterministic && steps > 0 && segment !== "never") {
    throw new UsageError("--deterministic steps repeat whole chunks: leave --segment out");
  }
  const warmup = args.integer("warmup", 0, 0);
  const forms = steps > 0 ? ["forward", "step"] : formsOf(plan.ranks);
  const isHere = transport === "in-process" || transport === "nccl-in-process";
  const devices: Device[] = [];
  if (isHere) {
    const opened = new Map<string, Device>();
    for (const [rank, name] of names.entries()) {
      const of = isNccl ? { ordinal: rank } : {};
      const key = `${name} ${isNccl ? rank : ""}`;
      if (!opened.has(key)) {
        opened.set(
          key,
          await openDevice(name, compiled, { threads, poison, segment, forms, ...of }),
        );
        say(`  ${opened.get(key)!.description}`);
      }
      devices.push(opened.get(key)!);
    }
  }
  /** In this process. */
  const execute = async (
    own: ReadonlyMap<string, HostTensor>,
    ownSizes: LaunchSizes,
    turns: number,
  ): Promise<RanksResult> => {
    const of = { plan, manifest, devices, inputs: own, sizes: ownSizes, warmup: turns };
    if (steps > 0) {
      const tensors = await decode({ ...of, device: devices[0]!, steps, deterministic });
      return { tensors, bytesSent: [0], messagesSent: [0], times: [] };
    }
    if (transport === "nccl-in-process") return runOnGpus(of, timeoutMs);
    const link = args.link();
    const transports = inProcessTransports(ranks, { timeoutMs }).map((one) =>
      link ? slowTransport(one, link) : one,
    );
    return runRanks({ ...of, transports });
  };
  const begun = performance.now();
  let result: RanksResult | null;
  try {
    if (isHere) {
      result = await patiently("running", say, () => execute(inputs, sizes, warmup));
    } else {
      // Each rank has a device of its own, so the cores are shared out between them.
      const share = threads ?? Math.max(1, Math.floor(availableParallelism() / ranks));
      const options = { threads: share, poison, segment };
      // Only this thread may choose the driver: what it finds out, the ranks' threads inherit.
      if (names.includes("webgpu")) await (await makeDevice("webgpu", options)).close();
      const entry = new URL("./rank-worker.js", import.meta.url);
      const { files } = compiled;
      const job = {
        plan,
        manifest,
        inputs,
        sizes,
        warmup,
        files,
        devices: names,
        options,
        entry,
        timeoutMs,
        link: args.link(),
      };
      result = launch
        ? await runRankOverTcp({
            ...job,
            launch,
            bind: args.text("bind") ?? "127.0.0.1",
            token: process.env["LASPC_TOKEN"] ?? "",
            connectTimeoutMs: args.seconds("connect-timeout", 60) * 1000,
            description: {
              program: `${manifest.name} ${digestOf(printTensor(compiled.program))}`,
              dtype: args.dtype(),
              seed: String(args.integer("seed", 0)),
              schedule: plan.schedule,
              backward: backward ? "on" : "off",
            },
            onRefused: (text) => say(`laspc: rank ${launch.rank}: ${text}`),
            signal: lostSignal(),
            localRank: localRankHere(),
            nccl: isNccl,
          })
        : await runRanksInWorkers(job);
    }
  } catch (error) {
    const { message } = error as Error;
    if (error instanceof RankError && error.isStuck) {
      // Nothing else ends a process whose GPU waits for another for ever.
      await new Promise((resolve) => process.stderr.write(`laspc: ${message}\n`, resolve));
      process.kill(process.pid, "SIGKILL");
    }
    throw new UserError(message);
  }
  if (result === null) return 0;
  const wallMs = performance.now() - begun;
  const stepsMs = Math.max(0, ...result.times.map(({ endMs }) => endMs));
  const total = result.bytesSent.reduce((a, b) => a + b, 0);
  say(
    `ran on ${ranks} device${ranks === 1 ? "" : "s"} in ${wallMs.toFixed(1)} ms, steps took ${stepsMs.toFixed(1)} ms; sent ${total} bytes`,
  );
  const timeline = args.text("timeline");
  if (timeline !== null) {
    const times = result.times.map(({ startMs: start, endMs: end, ...of }) => ({
      ...of,
      start,
      end,
    }));
    await writeWhole(timeline, planToSvg(plan, times));
    say(`drew ${timeline}`);
  }
  let comparison: Comparison | null = null;
  let drawn: Awaited<ReturnType<typeof verifyDraws>> = {};
  if (args.flag("verify")) {
    comparison = await compareWithReference({ compiled, inputs, sizes, result, say });
    if (isHere) {
      drawn = await verifyDraws(compiled, data, (own, of) =>
        execute(own, of, 0).catch((error: unknown) => {
          throw new UserError((error as Error).message);
        }),
      );
    }
  }
  await Promise.all([...new Set(devices)].map((device) => device.close()));
  const output = args.text("output");
  if (output !== null) await writeOutputs(output, result.tensors);
  const report = {
    entry: manifest.name,
    device: args.text("device") ?? "cpu",
    devices: ranks,
    mesh,
    schedule: plan.schedule,
    dims: { B: sizes.B, H: sizes.H, T: sizes.T, ...manifest.dims },
    dtype: args.dtype(),
    outputs: comparison
      ? comparison.outputs
      : Object.fromEntries([...result.tensors].map(([name, { shape }]) => [name, { shape }])),
    bytes_sent_per_rank: result.bytesSent,
    messages_sent_per_rank: result.messagesSent,
    wall_ms: Math.round(wallMs * 1000) / 1000,
    ...(Object.keys(drawn).length > 0 ? { draws: drawn } : {}),
    ok: (comparison?.ok ?? true) && Object.values(drawn).every(({ ok }) => ok),
    ...(comparison ? { reference: comparison.reference, tolerance: comparison.tolerance } : {}),
    ...(comparison && Object.keys(comparison.rounding).length > 0
      ? { rounding: comparison.rounding }
      : {}),
  };
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else printReport(report, comparison);
  return report.ok ? 0 : 1;
}

/** What messages cost: between processes much, inside one as much as copies that all wait for anyway. */
function fabricOf(transport: string): Fabric | null {
  if (transport === "tcp") return fabrics.loopback;
  return transport === "in-process" || transport === "worker" ? null : fabrics.nvlink;
}

/** All ranks in this process, each on a GPU of its own. */
async function runOnGpus(
  run: Omit<RanksRun, "transports">,
  timeoutMs: number,
): Promise<RanksResult> {
  const transports = await ncclTransports(run.devices, { timeoutMs });
  try {
    return await runRanks({ ...run, transports });
  } finally {
    await Promise.all(transports.map((one) => one.close()));
  }
}

function printReport(
  report: {
    readonly entry: string;
    readonly bytes_sent_per_rank: readonly number[];
    readonly draws?: Readonly<Record<string, DrawnRun>>;
    readonly ok: boolean;
    outputs: object;
  },
  comparison: Comparison | null,
): void {
  const line = (text: string) => process.stdout.write(`${text}\n`);
  report.bytes_sent_per_rank.forEach((bytes, rank) => line(`rank ${rank} sent ${bytes} bytes`));
  if (!comparison) {
    for (const [name, { shape }] of Object.entries(
      report.outputs as Record<string, { shape: number[] }>,
    )) {
      line(`${name}: [${shape.join(", ")}]`);
    }
    return;
  }
  for (const [name, output] of Object.entries(comparison.outputs)) {
    const error = output.rmse_ratio.toExponential(2);
    const rounding = ownOf(comparison.rounding, name);
    const beyond =
      rounding === undefined ? "" : `; rounding alone leaves ${rounding.toExponential(2)} RMS`;
    line(
      `${name}: [${output.shape.join(", ")}]  rmse ratio ${error}, tolerance ${comparison.tolerance[name]}${beyond}`,
    );
  }
  for (const [draw, { ok, rmse_ratio: ratio, wrong }] of Object.entries(report.draws ?? {})) {
    const found = ok
      ? `ok, worst rmse ratio ${ratio.toExponential(2)}`
      : `WRONG: ${wrong.join(", ")}`;
    line(`inputs drawn ${draw}: ${found}`);
  }
  line(
    `${report.entry}: ${report.ok ? "ok" : "WRONG"} against the float64 reference (${comparison.reference})`,
  );
}
