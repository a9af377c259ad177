/** Every statement of the tile level on the CPU, against plain loops in float64. */
import { describe, expect, test } from "vitest";
import type { Kernel, Stmt } from "../../../compiler/tile/ir.ts";
import { rmseRatio, tolerances } from "../../../compiler/tolerance.ts";
import { findDevice } from "../../support/devices.ts";
import {
  KernelText,
  artifactOf,
  call,
  loop,
  number,
  oneSequence,
  param,
  runKernel,
} from "./run-kernel.ts";

const cpu = findDevice("cpu");

/** Numbers between -1 and 1 that repeat nothing small. */
const numbers = (n: number, seed = 1) =>
  Float64Array.from({ length: n }, (_, i) => Math.fround(Math.sin((i + 1) * 12.9898 * seed)));

const close = (want: ArrayLike<number>, got: ArrayLike<number>) => {
  expect(got.length).toBe(want.length);
  expect(rmseRatio(want, got)).toBeLessThan(tolerances.f32);
};

const grid = (rows: number, cols: number, f: (i: number, j: number) => number) =>
  Float64Array.from({ length: rows * cols }, (_, n) => f(Math.floor(n / cols), n % cols));

function kernelOf(
  text: KernelText,
  params: Kernel["params"],
  body: readonly Stmt[],
  axes: Kernel["grid"] = [],
): Kernel {
  return { name: "kernel", params, grid: axes, threads: 1, storages: text.storages, body };
}

/** One tile or vector in, one out. */
async function through(
  input: readonly number[],
  output: readonly number[],
  data: Float64Array,
  stmts: (text: KernelText) => Stmt[],
): Promise<Float64Array> {
  const text = new KernelText({ x: input, y: output });
  const params = [param("x", "read", "state", input), param("y", "write", "state", output)];
  const body = [text.load("x"), ...stmts(text), text.store("y")];
  const { y } = await runKernel(kernelOf(text, params, body), { x: data }, oneSequence);
  return y!;
}

describe.runIf(cpu.available)(`statements on the cpu${cpu.why}`, () => {
  test.each([
    ["sum", "col"],
    ["sum", "row"],
    ["max", "col"],
    ["max", "row"],
  ] as const)("reduce %s %s of a tile", async (fn, axis) => {
    const [rows, cols] = [32, 48];
    const x = numbers(rows * cols);
    const [kept, folded] = axis === "col" ? [rows, cols] : [cols, rows];
    const want = Float64Array.from({ length: kept }, (_, i) => {
      const line = Array.from({ length: folded }, (_, j) =>
        axis === "col" ? x[i * cols + j]! : x[j * cols + i]!,
      );
      return fn === "sum" ? line.reduce((a, b) => a + b) : Math.max(...line);
    });
    const got = await through([rows, cols], [kept], x, (text) => [
      { kind: "reduce", fn, axis, dst: text.id("y"), src: text.id("x"), scratch: null, note: null },
    ]);
    close(want, got);
  });

  test.each(["sum", "max"] as const)("reduce %s of a vector", async (fn) => {
    const x = numbers(64);
    const want = fn === "sum" ? x.reduce((a, b) => a + b) : Math.max(...x);
    const got = await through([64], [], x, (text) => [
      {
        kind: "reduce",
        fn,
        axis: "row",
        dst: text.id("y"),
        src: text.id("x"),
        scratch: null,
        note: null,
      },
    ]);
    close([want], got);
  });

  test("a largest element that is NaN shows", async () => {
    const x = numbers(64);
    x[40] = NaN;
    const got = await through([64], [], x, (text) => [
      {
        kind: "reduce",
        fn: "max",
        axis: "row",
        dst: text.id("y"),
        src: text.id("x"),
        scratch: null,
        note: null,
      },
    ]);
    expect(got[0]).toBeNaN();
  });

  test.each(
    [[32], [32, 16]].flatMap((shape) =>
      [false, true].flatMap((reverse) =>
        [false, true].flatMap((exclusive) =>
          [null, 1, 4].flatMap((block) => {
            const earlier = { reverse: !reverse, exclusive: !exclusive };
            const isBoth = shape.length === 2 && block !== null;
            return [null, ...(isBoth ? [earlier] : [])].map(
              (other) => [shape, reverse, exclusive, block, other] as const,
            );
          }),
        ),
      ),
    ),
  )(
    "cumsum of %j, reverse %s, exclusive %s, block %s, earlier %j",
    async (shape, reverse, exclusive, block, earlier) => {
      const [rows, cols] = [shape[0]!, shape[1] ?? 1];
      const x = numbers(rows * cols);
      const span = block ?? rows;
      const want = grid(rows, cols, (i, j) => {
        let sum = 0;
        for (let r = 0; r < rows; r++) {
          const isEarlier = Math.floor(i / span) % 2 === 0;
          const way = (isEarlier ? earlier : null) ?? { reverse, exclusive };
          const isBefore = way.reverse ? r > i : r < i;
          const isIn = Math.floor(r / span) === Math.floor(i / span);
          if (isIn && (isBefore || (r === i && !way.exclusive))) sum += x[r * cols + j]!;
        }
        return sum;
      });
      const got = await through([...shape], [...shape], x, (text) => [
        {
          kind: "cumsum",
          dst: text.id("y"),
          src: text.id("x"),
          reverse,
          exclusive,
          block,
          ...(earlier && { earlier }),
          note: null,
        },
      ]);
      close(want, got);
    },
  );

  test.each([32, 20, 60, 64])("rotate-half of %i columns", async (width) => {
    const [rows, cols] = [16, 64];
    const x = numbers(rows * cols);
    const half = width / 2;
    const want = grid(rows, cols, (i, j) => {
      if (j >= width) return 0;
      return j < half ? -x[i * cols + j + half]! : x[i * cols + j - half]!;
    });
    const got = await through([rows, cols], [rows, cols], x, (text) => [
      { kind: "rotate-half", dst: text.id("y"), src: text.id("x"), width, note: null },
    ]);
    expect(got).toEqual(want);
  });

  test.each([null, "lhs", "rhs"] as const)("mma, transposed: %s", async (transposed) => {
    const [m, n, k] = [32, 48, 80];
    const text = new KernelText({
      d: [m, n],
      l: transposed === "lhs" ? [k, m] : [m, k],
      r: transposed === "rhs" ? [n, k] : [k, n],
    });
    const shape = (name: string) => text.storages[text.id(name)]!.shape as [number, number];
    const params = [
      param("l", "read", "state", shape("l")),
      param("r", "read", "state", shape("r")),
      param("d_in", "read", "state", [m, n]),
      param("d", "write", "state", [m, n]),
    ];
    const product = text.mma(text.window("d"), text.window("l"), text.window("r"), transposed);
    const body = [
      text.load("l"),
      text.load("r"),
      text.load("d", 0, "d_in"),
      product,
      text.store("d"),
    ];
    const [l, r, d] = [numbers(m * k), numbers(k * n, 2), numbers(m * n, 3)];
    const got = await runKernel(kernelOf(text, params, body), { l, r, d_in: d }, oneSequence);
    const want = grid(m, n, (i, j) => {
      let sum = d[i * n + j]!;
      for (let s = 0; s < k; s++) {
        sum +=
          l[transposed === "lhs" ? s * m + i : i * k + s]! *
          r[transposed === "rhs" ? j * k + s : s * n + j]!;
      }
      return sum;
    });
    close(want, got.d!);
  });

  test("mma on windows that move with a loop leaves the rest alone", async () => {
    const size = 64;
    const text = new KernelText({ d: [size, size], l: [size, size], r: [size, size] });
    const params = ["l", "r"].map((name) => param(name, "read", "state", [size, size]));
    const block = { rows: 16, cols: 16 };
    // The diagonal blocks of 16 x 16.
    const body = [
      text.load("l"),
      text.load("r"),
      text.map("d", number(7)),
      loop("i", size, 16, [
        text.mma(
          text.window("d", { row: "i", col: "i", ...block }),
          text.window("l", { row: "i", col: 32, ...block }),
          text.window("r", { row: 32, col: "i", ...block }),
        ),
      ]),
      text.store("d"),
    ];
    const kernel = kernelOf(text, [...params, param("d", "write", "state", [size, size])], body);
    const [l, r] = [numbers(size * size), numbers(size * size, 2)];
    const got = await runKernel(kernel, { l, r }, oneSequence);
    const want = grid(size, size, (i, j) => {
      if (Math.floor(i / 16) !== Math.floor(j / 16)) return 7;
      let sum = 7;
      for (let s = 32; s < 48; s++) sum += l[i * size + s]! * r[s * size + j]!;
      return sum;
    });
    close(want, got.d!);
  });

  test.each([false, true])("copy of a window, transpose %s", async (transpose) => {
    const x = numbers(32 * 64);
    const got = await through([32, 64], [64, 64], x, (text) => [
      text.map("y", number(-1)),
      {
        kind: "copy",
        transpose,
        dst: text.window(
          "y",
          transpose
            ? { row: 16, rows: 32, cols: 16, col: 32 }
            : { rows: 16, cols: 32, row: 32, col: 16 },
        ),
        src: text.window("x", { row: 16, rows: 16, cols: 32, col: 32 }),
        note: null,
      },
    ]);
    const want = grid(64, 64, (i, j) => {
      const [r, c] = transpose ? [j - 32, i - 16] : [i - 32, j - 16];
      return r >= 0 && r < 16 && c >= 0 && c < 32 ? x[(16 + r) * 64 + 32 + c]! : -1;
    });
    expect(got).toEqual(want);
  });

  test("map reads tiles, rows, columns, scalars, indices and bounds", async () => {
    const [rows, cols] = [32, 48];
    const text = new KernelText({ x: [rows, cols], r: [rows], c: [cols], s: [], y: [rows, cols] });
    const at = (axis: "row" | "col", start: number, global = false) =>
      ({ kind: "index", axis, start: { base: null, offset: start }, global }) as const;
    const inside = (axis: "row" | "col", start: number, limit: number | "T") =>
      ({ kind: "inside", axis, start: { base: null, offset: start }, limit }) as const;
    const row = call(
      "add",
      call("mul", text.read("r", "row"), at("row", 5, true)),
      inside("row", 3, "T"),
    );
    const col = call("mul", text.read("c", "col"), call("add", at("col", 2), inside("col", 1, 40)));
    const expr = call(
      "add",
      call("add", call("mul", text.read("x", "tile"), text.read("s", "scalar")), row),
      call("add", col, { kind: "runtime", scalar: "T_total" }),
    );
    const params = [
      param("x", "read", "state", [rows, cols]),
      param("r", "read", "state", [rows]),
      param("c", "read", "state", [cols]),
      param("s", "read", "state", []),
      param("y", "write", "state", [rows, cols]),
    ];
    const loads = ["x", "r", "c", "s"].map((name) => text.load(name));
    const kernel = kernelOf(text, params, [...loads, text.map("y", expr), text.store("y")]);
    const [x, r, c, s] = [numbers(rows * cols), numbers(rows, 2), numbers(cols, 3), [0.25]];
    const sizes = { ...oneSequence, T: 20, T_total: 1000, token_offset: 100 };
    const got = await runKernel(kernel, { x, r, c, s }, sizes);
    const want = grid(
      rows,
      cols,
      (i, j) =>
        x[i * cols + j]! * 0.25 +
        r[i]! * (105 + i) +
        (3 + i < 20 ? 1 : 0) +
        c[j]! * (2 + j + (1 + j < 40 ? 1 : 0)) +
        1000,
    );
    close(want, got.y!);
  });

  test("map to a vector and to a scalar; a vector is read at its own row", async () => {
    const text = new KernelText({ x: [64], s: [], y: [64] });
    const index = {
      kind: "index",
      axis: "row",
      start: { base: null, offset: 0 },
      global: false,
    } as const;
    const body = [
      text.load("x"),
      text.map("s", call("exp", number(-1))),
      text.map(
        "y",
        call("add", call("mul", text.read("x", "row"), text.read("s", "scalar")), index),
      ),
      text.store("y"),
    ];
    const params = [param("x", "read", "state", [64]), param("y", "write", "state", [64])];
    const x = numbers(64);
    const got = await runKernel(kernelOf(text, params, body), { x }, oneSequence);
    close(
      x.map((value, i) => value * Math.exp(-1) + i),
      got.y!,
    );
  });

  test.each([
    ["forwards", false],
    ["backwards", true],
  ])("a loop over tokens runs %s", async (_, reverse) => {
    // y = the number of the chunk that ran last, in decimal digits.
    const text = new KernelText({ s: [] });
    const index = {
      kind: "index",
      axis: "row",
      start: { base: "t", offset: 0 },
      global: false,
    } as const;
    const step = call(
      "add",
      call("mul", text.read("s", "scalar"), number(10)),
      call("div", index, number(16)),
    );
    const body = [
      text.map("s", number(0)),
      loop("t", "T", 16, [text.map("s", step)], reverse),
      text.store("s", 0, "y"),
    ];
    const kernel = kernelOf(text, [param("y", "write", "state", [])], body);
    const run = async (T: number) => (await runKernel(kernel, {}, { ...oneSequence, T })).y![0];
    expect(await run(50)).toBe(reverse ? 3210 : 123);
    expect(await run(0)).toBe(0);
  });

  test("statements that read alike are one function, whatever they are about", async () => {
    const shape = [16, 32];
    const text = new KernelText({ x: shape, y: shape, z: shape, s: [] });
    const double = (dst: string, src: string) =>
      text.map(dst, call("add", text.read(src, "tile"), text.read(src, "tile")));
    const body = [
      text.load("x"),
      double("y", "x"),
      double("z", "y"),
      double("z", "z"),
      // What depends on a scalar stays where it is.
      text.map("s", number(3)),
      text.map("y", call("mul", text.read("z", "tile"), text.read("s", "scalar"))),
      text.store("y"),
    ];
    const params = [param("x", "read", "state", shape), param("y", "write", "state", shape)];
    const kernel = kernelOf(text, params, body);
    const { files } = await artifactOf(kernel);
    const own = [...files.get("cpu/kernel.ll")!.matchAll(/^define .*"(.*)"/gm)];
    expect(own.map(([, name]) => name)).toEqual([
      "map a = add(b, b) on 16 x 32, 16 x 32",
      "map a = add(a, a) on 16 x 32",
    ]);
    const x = numbers(16 * 32);
    const { y } = await runKernel(kernel, { x }, oneSequence);
    close(
      x.map((value) => 24 * value),
      y!,
    );
  });

  test.each([0, 1, 16, 37])(
    "token buffers of %i tokens: nothing outside is read or written",
    async (T) => {
      // Columns 20 of 32; heads of v are shared by two; a grid axis over tokens.
      const text = new KernelText({ v: [16, 32], g: [16] });
      const params = [
        param("v", "read", "token", ["T", 20]),
        param("g", "read", "token", ["T"]),
        param("o", "write", "token", ["T", 20]),
        param("n", "write", "token", ["T"]),
      ];
      const body = [
        text.load("v", "t"),
        text.load("g", "t"),
        text.map("v", call("mul", text.read("v", "tile"), text.read("g", "row"))),
        text.store("v", "t", "o"),
        text.map("g", call("add", text.read("g", "row"), number(1))),
        text.store("g", "t", "n"),
      ];
      const axis = { name: "t", extent: "T", step: 16 } as const;
      const [B, H] = [2, 4];
      const sizes = { ...oneSequence, B, T, H, heads: { v: 2, g: 4, o: 4, n: 4 } };
      const [v, g] = [numbers(B * T * 2 * 20), numbers(B * T * H, 2)];
      const got = await runKernel(kernelOf(text, params, body, [axis]), { v, g }, sizes);
      const row = (i: number) => ({ bt: Math.floor(i / H), h: i % H });
      const want = grid(B * T * H, 20, (i, j) => {
        const { bt, h } = row(i);
        return v[(bt * 2 + Math.floor(h / 2)) * 20 + j]! * g[i]!;
      });
      close(want, got.o!);
      close(
        g.map((x) => x + 1),
        got.n!,
      );
    },
  );

  test("per head and shared buffers; columns cut over the grid", async () => {
    const text = new KernelText({ w: [16, 32], b: [16], s: [16, 32] });
    const params = [
      param("w", "read", "head", [16, 48]),
      param("b", "read", "shared", [16]),
      param("y", "write", "state", [16, 48]),
    ];
    const body = [
      text.load("w", 0, "w", "c"),
      text.load("b"),
      text.map("s", call("add", text.read("w", "tile"), text.read("b", "row"))),
      text.store("s", 0, "y", "c"),
    ];
    const axis = { name: "c", extent: 48, step: 32 } as const;
    const sizes = { ...oneSequence, B: 2, H: 2, heads: { w: 2 } };
    const [w, b] = [numbers(2 * 16 * 48), numbers(16, 2)];
    const got = await runKernel(kernelOf(text, params, body, [axis]), { w, b }, sizes);
    const one = w.map((x, i) => x + b[Math.floor(i / 48) % 16]!);
    close([...one, ...one], got.y!);
  });
});
