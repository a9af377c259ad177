/** laspc verify: every form and target available here against the reference, over awkward lengths. */
import { inProcessTransports } from "../../../runtime/transports/in-process.ts";
import { formsOf } from "../../../runtime/plan.ts";
import { runRanks } from "../../../runtime/run.ts";
import { planOf, exchangeNames } from "../../schedule/index.ts";
import { Arguments, UsageError, UserError } from "../arguments.ts";
import { gatherInputs } from "../data.ts";
import { type DeviceName, deviceNames, openDevice, targetsFor } from "../devices.ts";
import { compileFile, readSource, say } from "../files.ts";
import { compareWithReference, referenceResult } from "../reference.ts";

const lengths = [0, 1, 63, 64, 65, 200];
const rankCounts = [1, 2, 3, 5];

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    ["entry", "device", "dim", "dtype", "arch", "seed", "cache-states", "json"],
    "verify",
  );
  const source = await readSource(args.file("verify"));
  const named: readonly string[] = args.text("device")?.split(",") ?? deviceNames;
  const strange = named.find(
    (name, i) => !deviceNames.some((known) => known === name) || named.indexOf(name) !== i,
  );
  if (strange !== undefined) {
    throw new UsageError(`--device names ${deviceNames.join(", ")}, each once, not \`${strange}\``);
  }
  const rows: object[] = [];
  let ok = true;
  for (const name of deviceNames.filter((known) => named.includes(known))) {
    try {
      ok = (await verifyDevice(name, args, source, rows)) && ok;
    } catch (error) {
      if (!(error instanceof UserError) || args.text("device") !== null) throw error;
      say(`${name}: not available here: ${error.message}`);
    }
  }
  if (args.flag("json")) process.stdout.write(`${JSON.stringify({ ok, runs: rows }, null, 2)}\n`);
  else process.stdout.write(`${source.name}: ${ok ? "ok" : "WRONG"} (${rows.length} runs)\n`);
  return ok ? 0 : 1;
}

async function verifyDevice(
  name: DeviceName,
  args: Arguments,
  source: Awaited<ReturnType<typeof readSource>>,
  rows: object[],
): Promise<boolean> {
  const data = await gatherInputs(args, source);
  const compiled = await compileFile(source, args, await targetsFor([name], args.architecture()), {
    dims: data.dims,
    backward: true,
    cacheStates: args.cacheStates(),
  });
  const { manifest } = compiled;
  // Forwards on rings of several lengths, then the gradients of all inputs, by every schedule.
  const plans = [
    ...rankCounts.map((ranks) => planOf(manifest, "ring", ranks)),
    planOf(manifest, "ring", 1, true),
    ...exchangeNames.map((schedule) => planOf(manifest, schedule, 3, true)),
  ];
  const forms = formsOf(plans.flatMap((plan) => plan.ranks));
  const device = await openDevice(name, compiled, { threads: null, poison: true, forms });
  say(device.description);
  let allOk = true;
  const started = performance.now();
  for (const T of lengths) {
    if (performance.now() - started > 1000) say(`  T = ${T} ...`);
    const { inputs, sizes } = data.complete(compiled, T);
    const silent = { compiled, inputs, sizes, say: () => {} };
    const reference = await referenceResult(silent);
    for (const plan of plans) {
      const ranks = plan.ranks.length;
      const devices = Array.from({ length: ranks }, () => device);
      const transports = inProcessTransports(ranks);
      const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
      const { ok, outputs } = await compareWithReference({ ...silent, result, reference });
      allOk &&= ok;
      const worst = Math.max(...Object.values(outputs).map((output) => output.rmse_ratio));
      rows.push({ device: name, T, ranks, plan: plan.name, rmse_ratio: worst, ok });
      if (!ok) say(`  T = ${T}, ${plan.name}: WRONG, rmse ratio ${worst.toExponential(2)}`);
    }
  }
  say(
    `  ${allOk ? "ok" : "WRONG"}: T in {${lengths.join(", ")}} on ${rankCounts.join(", ")} ranks, and gradients`,
  );
  await device.close();
  return allOk;
}
