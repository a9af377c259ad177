/** Tiles copied by Hopper's copy engine, and by threads before Hopper: a kernel by hand, executed in software. */
import { describe, expect, test } from "vitest";
import { helperTexts } from "../../../codegen/cuda/ops.ts";
import { openCuda } from "../../../runtime/devices/cuda-library.ts";
import { TensorMaps } from "../../../runtime/devices/cuda-maps.ts";
import type { CudaBuffer } from "../../../runtime/devices/cuda-queue.ts";
import { shapeOf } from "../../../runtime/device.ts";
import { bytesOf, elementsOf } from "../../../runtime/dtype.ts";
import type { KernelSpec, Manifest, TensorSpec } from "../../../runtime/plan.ts";
import { parseManifest, printManifest } from "../../../runtime/validate.ts";
import { sizesOf } from "../../support/examples.ts";
import { manifestByHand } from "./by-hand.ts";
import {
  available,
  backward,
  createSoftwareCuda,
  onHopper,
  softwareLibraries,
  why,
} from "./software/index.ts";

const [rows, cols] = [64, 96];

interface Variant {
  /** What tiles are copied of: tokens, or what is stored for each chunk. */
  readonly per?: "token" | "chunk";
  /** Where the tile lies in shared memory. */
  readonly tile?: number;
  /** How many tiles are to arrive at a time. */
  readonly tiles?: number;
  readonly wait?: string;
}

/** Each block takes the chunks of x of its sequence and head one by one through a tile to y. */
function textOf({ per = "token", tile = 0, tiles = 1, wait }: Variant): string {
  const [place, from, stride, left] =
    per === "token"
      ? ["{0, n * 64, h, b}", "((b * T + n * 64) * H + h) * 96", "H * 96", "T - n * 64"]
      : ["{0, 0, h, b * chunks + n}", "((b * chunks + n) * H + h) * 64 * 96", "96", "64"];
  const helpers = ["copy_tile", "wait_for_tiles", "open_arrivals", "trim_tile"] as const;
  const kernel = `extern "C" __global__ void __launch_bounds__(64, 1) by_hand(
    const unsigned short* __restrict__ x, unsigned short* __restrict__ y, const __grid_constant__ tensor_map x_map,
    int T, int H) {
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* tile = memory + ${tile};
  unsigned long long* arrivals = (unsigned long long*)(memory + 64 * 256 * 2);
  const int b = blockIdx.x / H, h = blockIdx.x % H, chunks = (T + 63) / 64;
  open_arrivals<${tiles}>(arrivals);
  for (int n = 0; n < chunks; n++) {
    copy_tile<64, 96, 96, 64>(tile, arrivals, x_map, ${place}, x + ${from}, ${stride}, min(${left}, 64 - n));
    close_copies();
    wait_for_copies<0>();
    ${wait ?? "wait_for_tiles(arrivals, n % 2);"}
    __syncthreads();
    trim_tile<64, 96, 64>(tile, 64 - n);
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 96; i += 64) {
      y[((b * chunks + n) * H + h) * 64 * 96 + i] = *(unsigned short*)(tile + place_in_tile(64, i / 96, i % 96));
    }
    __syncthreads();
  }
}
`;
  return [...helperTexts([...helpers, "close_copies", "wait_for_copies"]), kernel].join("\n\n");
}

function manifestOf(per: "token" | "chunk"): Manifest {
  const spec = (name: string, per: "token" | "chunk"): TensorSpec => ({
    name,
    per,
    dtype: "bf16",
    dims: per === "token" ? [cols] : [rows, cols],
    dimNames: per === "token" ? ["K"] : [String(rows), "K"],
    range: null,
    ...(per === "chunk" && { chunk: rows }),
  });
  const form = { name: "form", inputs: [spec("x", per)], outputs: [spec("y", "chunk")] };
  const kernel: KernelSpec = {
    entry: "by_hand",
    file: "by_hand.cu",
    buffers: [
      { name: "x", access: "read" },
      { name: "y", access: "write" },
    ],
    maps: [{ buffer: "x", rows }],
    scalars: ["T", "H"],
    grid: [{ of: ["B", "H"], by: 1 }],
    threads: 64,
    sharedBytes: 64 * 256 * 2 + 8,
    dynamicShared: true,
  };
  return manifestByHand(form, kernel, cols);
}

async function run(variant: Variant, T: number) {
  const manifest = manifestOf(variant.per ?? "token");
  const [form] = manifest.forms;
  const sizes = sizesOf({ B: 2, T, H: 3 });
  const device = await createSoftwareCuda();
  try {
    await device.load({ manifest, read: () => new TextEncoder().encode(textOf(variant)) });
    const shape = shapeOf(form!.inputs[0]!, sizes);
    const data = Uint16Array.from({ length: elementsOf(shape) }, (_, i) => 1 + (i % 30_011));
    const x = await device.alloc("bf16", shape, false);
    const y = await device.alloc("bf16", shapeOf(form!.outputs[0]!, sizes), false);
    await device.upload(x, { dtype: "bf16", shape, data });
    const args = new Map([
      ["x", x],
      ["y", y],
    ]);
    await device.launch(form!, args, sizes);
    const { data: found } = await device.download(y);
    return { found, x: data };
  } finally {
    await device.close().catch(() => {});
  }
}

/** Chunk n of x without its last n rows; zeros where x ends. */
function expected(x: Uint16Array, per: "token" | "chunk", T: number): Uint16Array {
  const chunks = Math.ceil(T / rows);
  return Uint16Array.from({ length: 2 * chunks * 3 * rows * cols }, (_, i) => {
    const row = Math.floor(i / cols) % rows;
    const h = Math.floor(i / cols / rows) % 3;
    const point = Math.floor(i / cols / rows / 3);
    const [b, n] = [Math.floor(point / chunks), point % chunks];
    const token = n * rows + row;
    if (row >= rows - n || (per === "token" && token >= T)) return 0;
    return per === "chunk" ? x[i]! : x[((b * T + token) * 3 + h) * cols + (i % cols)]!;
  });
}

describe.skipIf(!available)(`tiles${why}`, () => {
  describe.each([
    ["Hopper", onHopper],
    ["before Hopper", <Result>(work: () => Promise<Result>) => work()],
  ])("%s", (_, on) => {
    test.each([
      ["token", 75],
      ["token", 128],
      ["chunk", 140],
    ] as const)("of what is stored for each %s, of %i tokens", async (per, T) => {
      for (const order of [on, <R>(work: () => Promise<R>) => on(() => backward(work))]) {
        const { found, x } = await order(() => run({ per }, T));
        const wanted = expected(x, per, T);
        expect(found).toHaveLength(wanted.length);
        expect(wanted.findIndex((value, i) => value !== found[i])).toBe(-1);
      }
    });

    test("of no tokens there is no map", async () => {
      expect((await on(() => run({}, 0))).found).toHaveLength(0);
    });
  });

  test.each([
    ["are never waited for", { wait: "" }, "CUDA_ERROR_ILLEGAL_ADDRESS"],
    [
      "are waited for in another turn",
      { wait: "wait_for_tiles(arrivals, (n + 1) % 2);" },
      "LAUNCH_FAILED",
    ],
    ["are fewer than a place waits for", { tiles: 2 }, "CUDA_ERROR_LAUNCH_FAILED"],
    ["lie askew", { tile: 512 }, "CUDA_ERROR_MISALIGNED_ADDRESS"],
  ])("that %s are an error", async (_, variant, error) => {
    await expect(onHopper(() => run(variant, 75))).rejects.toThrow(error);
  });

  describe("maps", () => {
    const buffer = (pointer: bigint, shape = [2, 75, 3, cols]): CudaBuffer => ({
      spec: { dtype: "bf16", shape },
      sizeBytes: bytesOf("bf16", shape),
      pointer,
    });
    const mapsOf = async (capability: number) =>
      new TensorMaps(await openCuda(softwareLibraries()), capability);

    test("are made once for an address, a shape and the rows of a tile", () =>
      onHopper(async () => {
        const maps = await mapsOf(90);
        const first = maps.of(buffer(4096n), 64);
        expect(maps.of(buffer(4096n), 64)).toBe(first);
        for (const other of [
          maps.of(buffer(8192n), 64),
          maps.of(buffer(4096n), 32),
          maps.of(buffer(4096n, [1, 150, 3, cols]), 64),
        ]) {
          expect(other).not.toEqual(first);
        }
      }));

    test("are zeros where nothing reads them", async () => {
      const zeros = new BigUint64Array(16);
      expect((await mapsOf(80)).of(buffer(4096n), 64)).toEqual(zeros);
      expect((await mapsOf(90)).of(buffer(4096n, [2, 0, 3, cols]), 64)).toEqual(zeros);
    });

    test("are refused where the copy engine cannot follow", () =>
      onHopper(async () => {
        const maps = await mapsOf(90);
        const words = "cuTensorMapEncodeTiled failed: CUDA_ERROR_INVALID_VALUE";
        expect(() => maps.of(buffer(4104n), 64)).toThrow(words);
        expect(() => maps.of(buffer(4096n, [1, 4, 1, 12]), 64)).toThrow(words);
        expect(() => maps.of(buffer(4096n), 0)).toThrow(words);
        expect(() => maps.of(buffer(4096n), 257)).toThrow(words);
      }));
  });
});

test("a manifest's maps are checked", () => {
  const json = printManifest(manifestOf("token"));
  expect(parseManifest(json)).toEqual(manifestOf("token"));
  const wrong = json.replace('"buffer": "x"', '"buffer": "../x"');
  expect(() => parseManifest(wrong)).toThrow("maps[0].buffer is not a name");
});
