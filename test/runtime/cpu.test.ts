/** The CPU device as a device: memory, order, arguments, the cache, and what it says when it cannot. */
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Kernel } from "../../compiler/tile/ir.ts";
import type { Device, DeviceBuffer } from "../../runtime/device.ts";
import { createCpuDevice } from "../../runtime/devices/cpu.ts";
import type { FormSpec } from "../../runtime/plan.ts";
import {
  KernelText,
  artifactOf,
  call,
  loop,
  number,
  oneSequence,
  param,
} from "../codegen/cpu/run-kernel.ts";
import { findDevice } from "../support/devices.ts";

const cpu = findDevice("cpu");

/** y = x + 1 for each token, from the first on or from the last back. */
function increment(name: string, reverse: boolean): Kernel {
  const text = new KernelText({ x: [16] });
  const body = [
    text.load("x", "t"),
    text.map("x", call("add", text.read("x", "row"), number(1))),
    text.store("x", "t", "y"),
  ];
  return {
    name,
    params: [param("x", "read", "token", ["T"]), param("y", "write", "token", ["T"])],
    grid: [],
    threads: 1,
    storages: text.storages,
    body: [loop("t", "T", 16, body, reverse)],
  };
}

async function artifact() {
  const { manifest, files } = await artifactOf(increment("up", false), increment("down", true));
  const read = (path: string) => new TextEncoder().encode(files.get(path));
  return { manifest, read };
}

const T = 40;
const sizes = { ...oneSequence, T };
const shape = [1, T, 1];
const tensor = (value: number) => ({
  dtype: "f32" as const,
  shape,
  data: new Float32Array(T).fill(value),
});

describe.runIf(cpu.available)(`the cpu device${cpu.why}`, () => {
  let [folder, before] = ["", process.env["XDG_CACHE_HOME"]];
  const devices: Device[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "laspc-test-"));
    before = process.env["XDG_CACHE_HOME"];
    process.env["XDG_CACHE_HOME"] = folder;
  });
  afterEach(async () => {
    for (const device of devices.splice(0)) await device.close();
    if (before === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = before;
    rmSync(folder, { recursive: true, force: true });
  });

  async function opened(options = {}): Promise<{ device: Device; form: FormSpec; back: FormSpec }> {
    const device = await createCpuDevice(options);
    devices.push(device);
    const code = await artifact();
    await device.load(code);
    const [form, back] = code.manifest.forms as [FormSpec, FormSpec];
    return { device, form, back };
  }
  const args = (x: DeviceBuffer, y: DeviceBuffer) =>
    new Map([
      ["x", x],
      ["y", y],
    ]);

  test("launches run in the order they are queued", async () => {
    const { device, form, back } = await opened();
    // Two launches at once, one from each end, would meet in the middle.
    const long = { ...sizes, T: 300_000 };
    const lane = [1, long.T, 1];
    const [x, y] = [await device.alloc("f32", lane, true), await device.alloc("f32", lane, true)];
    // Not awaited one by one: x = 1, 2, ... through y and back.
    const launches = Array.from({ length: 20 }, (_, i) =>
      i % 2 === 0 ? device.launch(form, args(x, y), long) : device.launch(back, args(y, x), long),
    );
    const { data } = await device.download(x);
    expect(data.every((value) => value === 20)).toBe(true);
    await Promise.all(launches);
  });

  test("new memory is zero when asked, NaN when poisoned", async () => {
    const { device } = await opened({ poison: true });
    const zero = await device.download(await device.alloc("f32", [7], true));
    expect(zero.data).toEqual(new Float32Array(7));
    const poisoned = await device.download(await device.alloc("f32", [7], false));
    expect([...poisoned.data].every(Number.isNaN)).toBe(true);
    const halves = await device.download(await device.alloc("bf16", [7], false));
    expect([...halves.data].every((bits) => (bits & 0x7fff) > 0x7f80)).toBe(true);
  });

  test("uploads are copies, and empty tensors are tensors", async () => {
    const { device, form } = await opened();
    const x = await device.alloc("f32", shape, false);
    const mine = tensor(3);
    await device.upload(x, mine);
    mine.data.fill(4);
    expect((await device.download(x)).data).toEqual(tensor(3).data);
    const none = await device.alloc("f32", [1, 0, 1], false);
    await device.launch(form, args(none, none), { ...sizes, T: 0 });
    expect((await device.download(none)).data.length).toBe(0);
  });

  test("wrong arguments are named", async () => {
    const { device, form } = await opened();
    const x = await device.alloc("f32", shape, true);
    const short = await device.alloc("f32", [1, T - 1, 1], true);
    const half = await device.alloc("f16", shape, true);
    const launch = (y: DeviceBuffer | null) => {
      const given = new Map([["x", x]]);
      if (y) given.set("y", y);
      return device.launch(form, given, sizes);
    };
    await expect(launch(null)).rejects.toThrow("up needs y, which was not given");
    await expect(launch(short)).rejects.toThrow("up needs y as f32[1, 40, 1], not f32[1, 39, 1]");
    await expect(launch(half)).rejects.toThrow("not f16[1, 40, 1]");
    await expect(device.upload(short, tensor(1))).rejects.toThrow("does not fit");
    device.free(x);
    await expect(device.download(x)).rejects.toThrow("after it was freed");
  });

  test("an artifact is compiled once for each machine, into a folder of the user's own", async () => {
    await opened();
    const cache = join(folder, "laspc");
    const [library, ...others] = readdirSync(cache);
    expect(others).toEqual([]);
    expect(statSync(cache).mode & 0o777).toBe(0o700);
    const made = statSync(join(cache, library!)).mtimeMs;
    await opened();
    expect(statSync(join(cache, library!)).mtimeMs).toBe(made);
    if (process.arch === "x64") {
      await opened({ cpu: "x86-64" });
      expect(readdirSync(cache).length).toBe(2);
    }
  });

  test("what does not compile is reported in the tool's words, and nothing is kept", async () => {
    const device = await createCpuDevice();
    const broken = {
      ...(await artifact()),
      read: () => new TextEncoder().encode("define nonsense"),
    };
    await expect(device.load(broken)).rejects.toThrow(/compiling for the cpu failed: .*llvm-link/s);
    expect(readdirSync(join(folder, "laspc"))).toEqual([]);
  });

  test("a missing tool is named", async () => {
    const path = process.env["PATH"];
    process.env["PATH"] = folder;
    try {
      await expect(createCpuDevice()).rejects.toThrow(/the cpu device needs .*`\S+` was not found/);
    } finally {
      process.env["PATH"] = path;
    }
  });
});
