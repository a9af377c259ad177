/** laspc verify: every form and target available here against the reference, over awkward lengths. */
import { inProcessTransports } from "../../../runtime/transports/in-process.ts";
import { type Manifest, type Plan, formsOf } from "../../../runtime/plan.ts";
import type { Draw } from "../../../runtime/random.ts";
import { runRanks } from "../../../runtime/run.ts";
import { planOf, exchangeNames } from "../../schedule/index.ts";
import { Arguments, UsageError, UserError } from "../arguments.ts";
import { gatherInputs } from "../data.ts";
import { type DeviceName, deviceNames, openDevice, targetsFor } from "../devices.ts";
import { compileFile, readSource, say } from "../files.ts";
import { otherDraws, worstRatio } from "../draws.ts";
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
  const others = otherDraws(manifest);
  const kinds: readonly Kind[] = [
    ...lengths.map((T): Kind => ({ T, draw: "declared", plans: allPlans(manifest) })),
    ...others.map((draw, i): Kind => ({
      T: lengths.at(-1)!,
      draw,
      plans: somePlans(manifest, i),
    })),
  ];
  const forms = formsOf(kinds.flatMap(({ plans }) => plans.flatMap((plan) => plan.ranks)));
  const device = await openDevice(name, compiled, { threads: null, poison: true, forms });
  say(device.description);
  let allOk = true;
  const started = performance.now();
  for (const { T, draw, plans } of kinds) {
    if (performance.now() - started > 1000) say(`  T = ${T} ...`);
    const { inputs, sizes } = data.complete(compiled, { T, draw });
    const of = { compiled, inputs, sizes, say: () => {} };
    const reference = await referenceResult(of);
    for (const plan of plans) {
      const ranks = plan.ranks.length;
      const devices = Array.from({ length: ranks }, () => device);
      const transports = inProcessTransports(ranks);
      const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
      const { ok, outputs } = await compareWithReference({ ...of, result, reference });
      allOk &&= ok;
      const worst = worstRatio(outputs);
      rows.push({ device: name, T, draw, ranks, plan: plan.name, rmse_ratio: worst, ok });
      if (!ok) {
        const drawn = draw === "declared" ? "" : `, inputs drawn ${draw}`;
        say(`  T = ${T}${drawn}, ${plan.name}: WRONG, rmse ratio ${worst.toExponential(2)}`);
      }
    }
  }
  const ranks = rankCounts.join(", ");
  say(`  ${allOk ? "ok" : "WRONG"}: T in {${lengths.join(", ")}} and gradients, on ${ranks} ranks`);
  say(`  inputs as declared, and ${others.join(", ")}; schedules ${exchangeNames.join(", ")}`);
  await device.close();
  return allOk;
}

/** Inputs, and the plans they go through. */
interface Kind {
  readonly T: number;
  readonly draw: Draw;
  readonly plans: readonly Plan[];
}

const several = rankCounts.filter((ranks) => ranks > 1);

/** Forwards alone on rings, then with the gradients of all inputs by every schedule. */
function allPlans(manifest: Manifest): Plan[] {
  return [
    ...rankCounts.map((ranks) => planOf(manifest, "ring", ranks)),
    planOf(manifest, "ring", 1, true),
    ...exchangeNames.flatMap((schedule) =>
      several.map((ranks) => planOf(manifest, schedule, ranks, true)),
    ),
  ];
}

/** Gradients on every number of ranks by a schedule of the turn's: in four turns by each of them. */
function somePlans(manifest: Manifest, turn: number): Plan[] {
  const scheduleOf = (i: number) => exchangeNames[(i + turn) % exchangeNames.length]!;
  return rankCounts.map((ranks, i) => planOf(manifest, scheduleOf(i), ranks, true));
}
