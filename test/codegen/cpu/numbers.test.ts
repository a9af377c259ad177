/** Pointwise functions and 16-bit conversions of the CPU target, number by number. */
import { describe, expect, test } from "vitest";
import { evaluateFn } from "../../../compiler/tensor/functions.ts";
import { binaryFns, type MapFn, unaryFns } from "../../../compiler/tensor/ir.ts";
import { pointwise } from "../../../compiler/tolerance.ts";
import type { Kernel } from "../../../compiler/tile/ir.ts";
import { createCpuDevice } from "../../../runtime/devices/cpu.ts";
import { fromBits, toBits } from "../../../runtime/dtype.ts";
import { findDevice } from "../../support/devices.ts";
import { KernelText, artifactOf, call, oneSequence, param, runKernel } from "./run-kernel.ts";

const cpu = findDevice("cpu");

/** Where a function's float32 result may be checked: where inputs mean something to it. */
const ranges: Partial<Record<MapFn, readonly [number, number]>> = {
  exp: [-100, 88],
  log: [0, 1e30],
  sqrt: [0, 1e30],
  rsqrt: [1e-30, 1e30],
  gelu: [-5, 30],
  sin: [-1e5, 1e5],
  cos: [-1e5, 1e5],
  square: [-1e15, 1e15],
};

/** Evenly spaced over the range, and geometrically towards 0 from both sides. */
function samples([low, high]: readonly [number, number], n: number): Float64Array {
  const near = (i: number, end: number) => end * 2 ** (-i / 12);
  return Float64Array.from({ length: n }, (_, i) => {
    const part = Math.floor(i / 3);
    if (i % 3 === 0) return Math.fround(low + ((high - low) * part) / (n / 3));
    return Math.fround(near(part, i % 3 === 1 ? high : low));
  });
}

function mapKernel(fns: readonly MapFn[], args: readonly string[]): Kernel {
  const text = new KernelText({ x: [64], y: [64], z: [64] });
  const reads = args.map((name) => text.read(name, "row"));
  const params = args.map((name) => param(name, "read", "token", ["T"]));
  const body = fns.flatMap((fn) => [
    text.map("z", call(fn, ...reads)),
    text.store("z", "t", `${fn}_out`),
  ]);
  return {
    name: "pointwise",
    params: [...params, ...fns.map((fn) => param(`${fn}_out`, "write", "token", ["T"]))],
    grid: [{ name: "t", extent: "T", step: 64 }],
    threads: 1,
    storages: text.storages,
    body: [...args.map((name) => text.load(name, "t")), ...body],
  };
}

const special = [0, -0, NaN, Infinity, -Infinity, 1, -1, 2 ** -149, -(2 ** -140), 3.4e38, -3.4e38];

describe.runIf(cpu.available)(`numbers on the cpu${cpu.why}`, () => {
  test.each(unaryFns)("%s", async (fn) => {
    const x = samples(ranges[fn] ?? [-30, 30], 6000);
    const sizes = { ...oneSequence, T: x.length };
    const result = (await runKernel(mapKernel([fn], ["x"]), { x }, sizes))[`${fn}_out`]!;
    let [worst, where] = [0, 0];
    x.forEach((value, i) => {
      const want = evaluateFn(fn, [value]);
      if (!Number.isFinite(Math.fround(want))) return;
      const scale = Math.max(Math.abs(want), fn === "sin" || fn === "cos" ? 1 : 2 ** -126);
      const error = Math.abs(result[i]! - want) / scale;
      if (!(error <= worst)) [worst, where] = [error, value];
    });
    expect(worst, `at ${where}`).toBeLessThan(pointwise(fn));
  });

  test.each(unaryFns)("%s of what is no ordinary number", async (fn) => {
    const sizes = { ...oneSequence, T: special.length };
    const result = (await runKernel(mapKernel([fn], ["x"]), { x: special }, sizes))[`${fn}_out`]!;
    special.forEach((value, i) => {
      const isLost = (fn === "sin" || fn === "cos") && Math.abs(value) >= 2 ** 30;
      const want = isLost ? NaN : Math.fround(evaluateFn(fn, [Math.fround(value)]));
      const got = result[i]!;
      if (Number.isNaN(want)) return expect(got, `${fn}(${value})`).toBeNaN();
      if (!Number.isFinite(want)) return expect(got, `${fn}(${value})`).toBe(want);
      expect(
        Math.abs(got - want) <= pointwise(fn) * Math.max(1, Math.abs(want)),
        `${fn}(${value}) = ${got}`,
      ).toBe(true);
    });
  });

  test("functions of two numbers", async () => {
    const pairs = [...special, 2.5, -3, 0.3].flatMap((a) =>
      [...special, 2, -3, 0.3].map((b) => [a, b]),
    );
    const [x, y] = [0, 1].map((i) => Float64Array.from(pairs, (pair) => Math.fround(pair[i]!)));
    const sizes = { ...oneSequence, T: pairs.length };
    const results = await runKernel(mapKernel(binaryFns, ["x", "y"]), { x: x!, y: y! }, sizes);
    for (const fn of binaryFns) {
      pairs.forEach((_, i) => {
        const [a, b] = [x![i]!, y![i]!];
        // C and JavaScript differ here, on purpose of each: pow(1, NaN), pow(-1, infinity).
        if (fn === "pow" && Math.abs(a) === 1 && !Number.isFinite(b)) return;
        const want = Math.fround(evaluateFn(fn, [a, b]));
        const got = results[`${fn}_out`]![i]!;
        const what = `${fn}(${a}, ${b}) = ${got}, not ${want}`;
        if (Number.isNaN(want)) return expect(got, what).toBeNaN();
        if (!Number.isFinite(want) || want === 0) return expect(got + 0, what).toBe(want + 0);
        expect(Math.abs(got / want - 1), what).toBeLessThan(pointwise(fn));
      });
    }
  });

  test("select never mixes its sides", async () => {
    const text = new KernelText({ c: [16], x: [16], y: [16] });
    const names = ["c", "x", "y"];
    const kernel: Kernel = {
      name: "choose",
      params: [
        ...names.map((name) => param(name, "read", "state", [16])),
        param("o", "write", "state", [16]),
      ],
      grid: [],
      threads: 1,
      storages: text.storages,
      body: [
        ...names.map((name) => text.load(name)),
        text.map("y", call("select", ...names.map((name) => text.read(name, "row")))),
        text.store("y", 0, "o"),
      ],
    };
    const c = Float64Array.from({ length: 16 }, (_, i) => i % 2);
    const x = c.map((on) => (on ? 3 : NaN));
    const y = c.map((on) => (on ? Infinity : 4));
    const { o } = await runKernel(kernel, { c, x, y }, oneSequence);
    expect(o).toEqual(c.map((on) => (on ? 3 : 4)));
  });

  test.each(["f16", "bf16"] as const)("every %s is read as what it is", async (dtype) => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const got = await convert(dtype, "f32", bits);
    bits.forEach((b) => {
      const want = fromBits(dtype, b);
      if (!Object.is(got[b], want)) throw new Error(`${dtype} ${b} is ${want}, read as ${got[b]}`);
    });
  });

  test.each(["f16", "bf16"] as const)(
    "numbers round to the nearest %s, ties to even",
    async (dtype) => {
      // Every stored number, the middle to the next one, and a little to both sides of it.
      const floats = new Float32Array(65536 * 4);
      const bits = new Uint32Array(floats.buffer);
      for (let i = 0; i < 65536; i++) {
        floats[4 * i] = fromBits(dtype, i);
        floats[4 * i + 1] = (fromBits(dtype, i) + fromBits(dtype, (i + 1) & 0xffff)) / 2;
        bits[4 * i + 2] = bits[4 * i + 1]! + 1;
        bits[4 * i + 3] = bits[4 * i + 1]! - 1;
      }
      const got = await convert("f32", dtype, floats);
      floats.forEach((x, i) => {
        if (Number.isNaN(x)) return expect(fromBits(dtype, got[i]!)).toBeNaN();
        const want = toBits(dtype, x);
        if (got[i] !== want) throw new Error(`${x} is ${want} as ${dtype}, but became ${got[i]}`);
      });
    },
  );
});

type Stored = "f32" | "f16" | "bf16";

/**
 * Loads numbers of one dtype and stores them as another, bits in and bits out: in rows of 64, so that
 * whole vectors and parts of one are both used.
 */
async function convert(from: Stored, to: Stored, data: Float32Array | Uint16Array) {
  const text = new KernelText({ x: [16, 48] });
  const kernel: Kernel = {
    name: "convert",
    params: [
      param("x", "read", "token", ["T", 64], from),
      param("y", "write", "token", ["T", 64], to),
    ],
    grid: [{ name: "t", extent: "T", step: 16 }],
    threads: 1,
    storages: text.storages,
    body: [
      text.load("x", "t"),
      text.store("x", "t", "y"),
      text.load("x", "t", "x", 37),
      text.store("x", "t", "y", 37),
    ],
  };
  const { manifest, files } = await artifactOf(kernel);
  const device = await createCpuDevice();
  await device.load({ manifest, read: (path) => new TextEncoder().encode(files.get(path)) });
  const T = data.length / 64;
  const shape = [1, T, 1, 64];
  const x = await device.alloc(from, shape, false);
  const y = await device.alloc(to, shape, false);
  await device.upload(x, { dtype: from, shape, data });
  const sizes = { ...oneSequence, T };
  await device.launch(
    manifest.forms[0]!,
    new Map([
      ["x", x],
      ["y", y],
    ]),
    sizes,
  );
  const result = await device.download(y);
  await device.close();
  return result.data;
}
