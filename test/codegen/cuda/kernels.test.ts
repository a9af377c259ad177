/** Statements that no shipped attention uses yet, as hand-written kernels, executed in software. */
import { expect, test } from "vitest";
import { emitCuda } from "../../../codegen/cuda/emit.ts";
import type { Kernel, Stmt, Storage, StorageId } from "../../../compiler/tile/ir.ts";
import { verifyTile } from "../../../compiler/tile/verify.ts";
import type { TensorSpec } from "../../../runtime/plan.ts";
import { sizesOf } from "../../support/examples.ts";
import { manifestByHand } from "./by-hand.ts";
import { available, backward, createSoftwareCuda, why } from "./software/index.ts";

const [rows, cols] = [32, 16];

function storage(id: number, name: string, memory: Storage["memory"], shape: number[]): Storage {
  const pad = memory === "shared" && shape.length === 2 ? 1 : 0;
  return { id: id as StorageId, name, memory, dtype: "f32", shape, pad };
}

/** Loads a chunk of x, does something with it, stores it to y; runs over T in either direction. */
function kernel(
  storages: Storage[],
  body: Stmt[],
  reverse = false,
  step = rows,
  shape: readonly ["T", ...number[]] = ["T", cols],
): Kernel {
  const param = { per: "token", dtype: "f32", shape, heads: "H" } as const;
  const loop: Stmt = {
    kind: "loop",
    variable: "t",
    extent: "T",
    step,
    within: null,
    reverse,
    body,
    note: null,
  };
  return {
    name: "by_hand",
    params: [
      { ...param, name: "x", access: "read" },
      { ...param, name: "y", access: "write" },
    ],
    grid: [],
    threads: 256,
    storages,
    body: [loop],
  };
}

function artifactOf(hand: Kernel) {
  verifyTile({ name: "by_hand", kernels: [hand] }, "test");
  const emitted = emitCuda(hand, { source: "by hand", passes: [] });
  const spec = (name: string): TensorSpec => ({
    name,
    per: "token",
    dtype: "f32",
    dims: hand.params[0]!.shape.slice(1) as number[],
    dimNames: hand.params[0]!.shape.length > 1 ? ["K"] : [],
    range: null,
  });
  const form = { name: "form", inputs: [spec("x")], outputs: [spec("y")] };
  const buffers = hand.params.map(({ name, access }) => ({ name, access }));
  const grid = [{ of: ["B", "H"], by: 1 }];
  const manifest = manifestByHand(
    form,
    { ...emitted, dynamicShared: emitted.isDynamic, buffers, grid, threads: 256 },
    cols,
  );
  return { manifest, form, read: () => new TextEncoder().encode(emitted.text) };
}

const T = 75;
const x = Float32Array.from({ length: T * cols }, (_, i) => ((i * 37) % 11) - 5);

async function run(hand: Kernel, data = x): Promise<Float32Array> {
  const artifact = artifactOf(hand);
  const device = await createSoftwareCuda();
  await device.load(artifact);
  const dims = hand.params[0]!.shape.slice(1) as number[];
  const T = data.length / dims.reduce((a, b) => a * b, 1);
  const shape = [1, T, 1, ...dims];
  const [input, output] = [
    await device.alloc("f32", shape, false),
    await device.alloc("f32", shape, false),
  ];
  await device.upload(input, { dtype: "f32", shape, data });
  const args = new Map([
    ["x", input],
    ["y", output],
  ]);
  await device.launch(artifact.form, args, sizesOf({ T, H: 1 }));
  const { data: given } = await device.download(output);
  await device.close();
  return given as Float32Array;
}

const view = (param: string) => ({
  param,
  row: { base: "t", offset: 0 },
  col: { base: null, offset: 0 },
});
const barrier: Stmt = { kind: "barrier", note: null };
const [first, second] = [0 as StorageId, 1 as StorageId];

test.skipIf(!available).each([
  [false, rows],
  [true, rows],
  // Blocks by turns this way and that: of 4 rows, and of 8.
  [false, 4],
  [true, 8],
])(
  `sums down the rows of a shared tile, reverse %s, in blocks of %i${why}`,
  async (reverse, block) => {
    const tiles = [
      storage(0, "chunk", "shared", [rows, cols]),
      storage(1, "sums", "shared", [rows, cols]),
    ];
    const hand = kernel(tiles, [
      { kind: "load", dst: first, view: view("x"), note: null },
      barrier,
      {
        kind: "cumsum",
        reverse,
        exclusive: false,
        ...(block === rows
          ? { block: null }
          : { block, earlier: { reverse: !reverse, exclusive: false } }),
        dst: second,
        src: first,
        note: null,
      },
      barrier,
      { kind: "store", src: second, view: view("y"), note: null },
    ]);
    const expected = x.map((_, i) => {
      const [row, col] = [Math.floor(i / cols), i % cols];
      const start = row - (row % block);
      const isTurned = block < rows && ((row % rows) / block) % 2 < 1;
      const isBack = isTurned ? !reverse : reverse;
      const [from, to] = isBack ? [row, Math.min(start + block, T) - 1] : [start, row];
      let sum = 0;
      for (let r = from; r <= to; r++) sum += x[r * cols + col]!;
      return sum;
    });
    expect(await run(hand)).toEqual(expected);
    expect(await backward(() => run(hand))).toEqual(expected);
  },
);

test.skipIf(!available).each([16, 32, 64, 128])(
  `a warp sums up a vector of %i${why}`,
  async (size) => {
    const vectors = [
      storage(0, "each", "shared", [size]),
      storage(1, "sums", "shared", [size]),
      // A tile for products makes it a kernel of warps.
      { ...storage(2, "factor", "shared", [16, 16]), dtype: "bf16" as const, pad: 0 },
    ];
    const x = Float32Array.from({ length: 300 }, (_, i) => ((i * 37) % 11) - 5);
    for (const how of [0, 1, 2, 3]) {
      const [reverse, exclusive] = [how % 2 === 1, how > 1];
      for (const block of size > 32 ? [null, 32] : [null]) {
        const body: Stmt[] = [
          { kind: "load", dst: first, view: view("x"), note: null },
          barrier,
          { kind: "cumsum", dst: second, src: first, reverse, exclusive, block, note: null },
          barrier,
          { kind: "store", src: second, view: view("y"), note: null },
          barrier,
        ];
        const hand = kernel(vectors, body, false, size, ["T"]);
        const expected = x.map((_, i) => {
          const start = i - ((i % size) % (block ?? size));
          const end = Math.min(start + (block ?? size), x.length);
          const own = exclusive ? 1 : 0;
          const part = reverse ? x.slice(i + own, end) : x.slice(start, i + 1 - own);
          return part.reduce((sum, value) => sum + value, 0);
        });
        expect(await run(hand, x), `${how} ${block}`).toEqual(expected);
      }
    }
  },
);

test.skipIf(!available)(`a copy is there after the wait, for every thread${why}`, async () => {
  const tiles = [
    storage(0, "ahead", "shared", [rows, cols]),
    storage(1, "turned", "register", [rows, cols]),
  ];
  // Every thread reads what another one copied: the tile's rows upside down, in two halves.
  const window = (id: StorageId, row: number) => ({
    storage: id,
    row: { base: null, offset: row },
    col: { base: null, offset: 0 },
    rows: 16,
    cols,
  });
  const swap = (to: number, from: number): Stmt => ({
    kind: "copy",
    transpose: true,
    dst: window(second, to),
    src: window(first, from),
    note: null,
  });
  const body: Stmt[] = [
    barrier,
    { kind: "copy-async", dst: first, view: view("x"), turns: "all", ahead: 0, note: null },
    { kind: "wait", pending: 0, note: null },
    swap(0, 16),
    swap(16, 0),
    { kind: "store", src: second, view: view("y"), note: null },
  ];
  const expected = x.map((_, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols];
    const start = row - (row % rows);
    const half = row % rows < 16 ? 16 : 0;
    const from = start + half + col;
    return from < T ? x[from * cols + (row % 16)]! : 0;
  });
  for (const reverse of [false, true]) {
    const hand = kernel(tiles, body, reverse);
    expect(await run(hand)).toEqual(expected);
    expect(await backward(() => run(hand))).toEqual(expected);
  }
});
