/** Goldens of the passes on tiles, before and after as text; what the kernels compute stays the same. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Pass, Report, runPasses } from "../../compiler/support/pass.ts";
import { interpretTile } from "../../compiler/tile/interpret.ts";
import type { Storage, TileProgram } from "../../compiler/tile/ir.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { divideRoles } from "../../compiler/tile/passes/divide-roles.ts";
import { dropRepeats } from "../../compiler/tile/passes/drop-repeats.ts";
import { foldEarly } from "../../compiler/tile/passes/fold-early.ts";
import { gatherProducts } from "../../compiler/tile/passes/gather-products.ts";
import { insertBarriers } from "../../compiler/tile/passes/insert-barriers.ts";
import { multiplyInRegisters } from "../../compiler/tile/passes/multiply-in-registers.ts";
import { oneWarpgroup } from "../../compiler/tile/passes/one-warpgroup.ts";
import { pipelineCopies } from "../../compiler/tile/passes/pipeline-copies.ts";
import { placeOperands } from "../../compiler/tile/passes/place-operands.ts";
import { recomputeTiles } from "../../compiler/tile/passes/recompute-tiles.ts";
import { scaleAfter } from "../../compiler/tile/passes/scale-after.ts";
import { spreadFolds } from "../../compiler/tile/passes/spread-folds.ts";
import { stageWaits } from "../../compiler/tile/passes/stage-waits.ts";
import { registerPressure } from "../../compiler/tile/pressure.ts";
import { printTile } from "../../compiler/tile/print.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";
import { checkGolden, readGolden } from "../harness.ts";

const folder = join(import.meta.dirname, "passes");

const bytesOf = ({ shape }: Storage) => shape.reduce((a, b) => a * b, 2);
const registersOf = (rows: number, cols: number) => (rows * cols) / 128;

const passes: readonly Pass<TileProgram>[] = [
  scaleAfter,
  oneWarpgroup((kernel) => registerPressure(kernel, registersOf) <= 7),
  foldEarly((kernel) => registerPressure(kernel, registersOf)),
  placeOperands((rows) => rows <= 16),
  recomputeTiles((kernel) => registerPressure(kernel, registersOf), 7),
  divideRoles({
    limitBytes: 100000,
    bytesOf,
    registersOf,
    sharings: [
      [
        { threads: 128, registers: 100 },
        { threads: 128, registers: 100 },
      ],
    ],
    signals: 13,
    foldsRows: () => true,
  }),
  dropRepeats((kernel) => registerPressure(kernel, registersOf) <= 100),
  multiplyInRegisters({
    limitBytes: 100000,
    bytesOf,
    // All warps share the columns of few rows.
    partsOf: (rows, _cols, _axis, threads) => (rows <= 32 ? threads / 32 : 1),
    fits: (kernel) => registerPressure(kernel, registersOf) <= 100,
  }),
  spreadFolds({
    limitBytes: 100000,
    bytesOf,
    partsOf: (_rows, _cols, axis, threads) => (threads === 128 ? 1 : axis === "col" ? 2 : 4),
  }),
  gatherProducts({ limitBytes: 2600, bytesOf }),
  pipelineCopies({ limitBytes: 2600, bytesOf }),
  stageWaits(bytesOf),
  insertBarriers,
];

function parse(text: string): TileProgram {
  const program = parseTile(text);
  verifyTile(program, "golden");
  return program;
}

function run(text: string, pass: Pass<TileProgram>): TileProgram {
  return runPasses([pass], parse(text), verifyTile, new Report());
}

/** What a program writes, from fixed numbers, for two and a half chunks of two heads. */
function results(program: TileProgram): readonly number[] {
  const sizes = { B: 1, T: 40, H: 2, T_total: 40, token_offset: 0, packed: 0 };
  const buffers = new Map<string, Float64Array>();
  for (const { name, per, shape } of program.kernels.flatMap(({ params }) => params)) {
    const own = shape.reduce<number>((product, dim) => product * (dim === "T" ? 40 : dim), 1);
    const length = own * 2 * (per === "chunk" ? 3 : 1);
    buffers.set(
      name,
      Float64Array.from({ length }, (_, i) => Math.sin(7 * i + name.length) / 4),
    );
  }
  interpretTile(program, buffers, sizes);
  return [...buffers.get("o")!];
}

describe.each(passes)("$name", (pass) => {
  const path = join(folder, `${pass.name}.tile`);

  test("golden", () => checkGolden(path, (text) => printTile(run(text, pass))));

  test.each(readGolden(path))("the same numbers: $title", ({ input }) => {
    const [before, after] = [results(parse(input)), results(run(input, pass))];
    // Only a solve is computed otherwise, as a product with an inverse.
    after.forEach((x, i) => expect(x).toBeCloseTo(before[i]!, 12));
  });
});

test("each pass has its golden", () => {
  // It works on slabs, whose text is long; test/programs has its outcome for every example.
  const elsewhere = ["stage-operands"];
  const source = readdirSync(join(import.meta.dirname, "../../compiler/tile/passes"));
  const names = source.map((name) => name.replace(".ts", "")).filter((n) => !elsewhere.includes(n));
  expect(readdirSync(folder).map((name) => name.replace(".tile", ""))).toEqual(names);
});
