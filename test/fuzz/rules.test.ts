/** 300 random rules, seeded, run one way or two against float64; `npm run fuzz` runs as many as there is time for. */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { findDevice } from "../support/devices.ts";
import { type CellDevice, drawCell, runCell } from "./cell.ts";
import { Dice } from "./dice.ts";
import { drawRule } from "./grammar.ts";
import { parseCase, printCase } from "./replay.ts";

const [first, count] = [20261130, 300];
/** More refusals than this share would mean that the generator tests too little. */
const mostRefused = 1 / 3;
/** Native code takes seconds to compile: so many of all runs. */
const nativeShare = 1 / 60;

const interpreted: readonly CellDevice[] = ["tile-cpu", "tile-wgsl", "tile-cuda"];
const { available } = findDevice("cpu");

// In parts, which say where they are.
const parts = 6;
test.each(Array.from({ length: parts }, (_, i) => i))(
  "part %i: no wrong number, and few refusals",
  async (part) => {
    let [runs, refused] = [0, 0];
    const failed: string[] = [];
    for (let seed = first + part; seed < first + count; seed += parts) {
      const dice = new Dice(`cells ${seed}`);
      const rule = drawRule(seed);
      for (let i = dice.below(2); i < 2; i++) {
        runs++;
        const isNative = available && dice.chance(nativeShare);
        const cell = drawCell(dice, isNative ? ["cpu"] : interpreted);
        const outcome = await runCell(rule, cell);
        if (outcome.kind === "refused") refused++;
        else if (outcome.kind !== "ok") failed.push(printCase({ rule, cell }, [outcome.what]));
      }
    }
    expect(refused).toBeLessThan(mostRefused * runs);
    // Each is a file that `npm run fuzz -- --replay FILE` takes.
    expect(failed).toEqual([]);
  },
);

// One file for each class of faults that random rules showed.
const folder = join(import.meta.dirname, "found");
test.each(readdirSync(folder))("found once: %s", async (name) => {
  const { rule, cell } = parseCase(readFileSync(join(folder, name), "utf8"));
  expect(await runCell(rule, cell)).toEqual({ kind: "ok" });
});
