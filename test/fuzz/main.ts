/**
 * Random rules, run many ways against float64: `npm run fuzz -- --minutes 10`. What fails is made small and written to
 * a folder as a `.lasp` file, with how to run it again; see `usage`.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatSource } from "../../compiler/syntax/format.ts";
import { type CellDevice, type Outcome, cellDevices, drawCell, runCell } from "./cell.ts";
import { Dice } from "./dice.ts";
import { drawRule } from "./grammar.ts";
import { parseCase, printCase } from "./replay.ts";
import { type Failure, shrink } from "./shrink.ts";

const usage = `npm run fuzz -- [--minutes N] [--count N] [--seed S] [--cells N] [--devices tile-cpu,...]
                [--out DIR] [--shrink SECONDS] [--replay FILE.lasp]
  --minutes   how long to go on; 1 where no count is given
  --count     how many rules at most
  --seed      of the first rule; the next has one more. Today's day where it is not given
  --cells     ways to run each rule, 3
  --devices   among ${cellDevices.join(", ")}; those on the interpreter of tiles
  --out       where failures go: fuzz-failures
  --shrink    seconds to make each failure smaller, 60
  --replay    runs a failure again instead`;

const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    count: { type: "string" },
    seed: { type: "string", default: String(Math.floor(Date.now() / 86_400_000)) },
    cells: { type: "string", default: "3" },
    devices: { type: "string", default: "tile-cpu,tile-wgsl,tile-cuda" },
    out: { type: "string", default: "fuzz-failures" },
    shrink: { type: "string", default: "60" },
    replay: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

/** More refusals than this share would mean that the generator tests too little. */
const mostRefused = 1 / 3;

async function main(): Promise<number> {
  if (values.help) {
    console.log(usage);
    return 0;
  }
  if (values.replay !== undefined) return replay(values.replay);
  const count = Number(values.count ?? Infinity);
  const minutes = Number(values.minutes ?? (values.count === undefined ? 1 : Infinity));
  const end = performance.now() + minutes * 60_000;
  const devices = values.devices.split(",") as CellDevice[];
  const totals: Record<Outcome["kind"], number> = { ok: 0, refused: 0, wrong: 0, crash: 0 };
  const codes = new Map<string, number>();
  const first = Number(values.seed);
  let rules = 0;
  let told = performance.now();
  for (let seed = first; rules < count && performance.now() < end; seed++) {
    rules++;
    const rule = drawRule(seed);
    const dice = new Dice(`cells ${seed}`);
    for (let i = 0; i < Number(values.cells); i++) {
      const cell = drawCell(dice, devices);
      const outcome = await runCell(rule, cell);
      totals[outcome.kind]++;
      if (outcome.kind === "refused") {
        codes.set(outcome.code, (codes.get(outcome.code) ?? 0) + 1);
        // Another way to run it would be refused like this one.
        if (outcome.code.startsWith("unsupported-")) break;
      } else if (outcome.kind !== "ok") {
        await report({ rule, cell, outcome }, `${seed}-${i}`);
      }
    }
    if (performance.now() - told > 10_000) {
      told = performance.now();
      console.error(`${rules} rules: ${JSON.stringify(totals)}`);
    }
  }
  const runs = Object.values(totals).reduce((sum, n) => sum + n, 0);
  const refusals = [...codes].map(([code, n]) => `, ${n} ${code}`).join("");
  console.log(
    `${rules} rules from seed ${first}, ${runs} runs: ${totals.ok} right, ${totals.wrong} wrong, ${totals.crash} crashed, ${totals.refused} refused${refusals}`,
  );
  return totals.wrong + totals.crash > 0 || totals.refused > mostRefused * runs ? 1 : 0;
}

async function report(found: Failure, name: string): Promise<void> {
  const { what } = found.outcome;
  console.log(`${name}: ${found.outcome.kind}: ${what.split("\n")[0]}`);
  const { rule, cell, outcome } = await shrink(found, Number(values.shrink) * 1000);
  const path = join(values.out, `${name}.lasp`);
  mkdirSync(values.out, { recursive: true });
  const text = await formatSource(rule.text).catch(() => rule.text);
  const lines = [
    `${outcome.kind}: ${outcome.what.split("\n")[0]}`,
    `again: npm run fuzz -- --replay ${path}`,
  ];
  writeFileSync(path, printCase({ rule: { ...rule, text }, cell }, lines));
  console.log(`  made small in ${path}: ${outcome.what.split("\n")[0]}`);
}

async function replay(path: string): Promise<number> {
  const { rule, cell } = parseCase(readFileSync(path, "utf8"));
  const outcome = await runCell(rule, cell);
  console.log(outcome.kind === "ok" ? "ok" : JSON.stringify(outcome, null, 2));
  return outcome.kind === "ok" ? 0 : 1;
}

process.exitCode = await main();
