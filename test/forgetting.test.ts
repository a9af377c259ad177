/**
 * Gates of every strength side by side: what a strong one forgets must not cost the weak ones digits, and a decay of
 * zero, or a gate of -inf, forgets exactly.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import type { Compiled } from "../compiler/index.ts";
import { decode } from "../runtime/decode.ts";
import type { Device, HostTensor, LaunchSizes } from "../runtime/device.ts";
import * as software from "./codegen/cuda/software/index.ts";
import { findDevice } from "./support/devices.ts";
import {
  artifactOf,
  compare,
  compileText,
  randomInputs,
  runBackward,
  sizesOf,
} from "./support/examples.ts";

const head = "(q: [T, K], k: [T, K], v: [T, V]";
const inputs = `${head}, g: [T] in (-inf, 0], beta: [T] in [0, 1]) -> [T, V]`;

/** Where a gate stands; named by what is special about it. */
const rules = {
  product: `attention f${head}, g: [T] in (-inf, 0]) -> [T, V] { return ((q @ k.T) * causal_decay(g)) @ v }`,
  delta: `attention f${inputs} {
    key = l2norm(k)
    recurrence S: [K, V] { S = exp(g) * S  S = S + beta * outer(key, v - key @ S)  yield q @ S }
  }`,
  "read before, in reverse": `attention f${head}, g: [T] in (-inf, 0]) -> [T, V] {
    recurrence S: [K, V] reverse { o = q @ S  S = exp(g) * S + outer(k, v)  yield o }
  }`,
  "of keys": `attention f${head}, g: [T, K] in (-inf, 0]) -> [T, V] {
    recurrence S: [K, V] { S = exp(g) * S + outer(k, v)  yield q @ S }
  }`,
  "of values": `attention f${head}, g: [T, V] in (-inf, 0]) -> [T, V] {
    recurrence S: [K, V] { S = S * exp(g) + outer(k, v)  yield q @ S }
  }`,
  "a factor": `attention f${head}, a: [T] in [0, 1]) -> [T, V] {
    recurrence S: [K, V] { S = a * S + outer(k, v)  yield q @ S }
  }`,
  "a factor for each key": `attention f${head}, a: [T, K] in [0, 1]) -> [T, V] {
    recurrence S: [K, V] { S = a * S + outer(k, v)  yield q @ S }
  }`,
  "a logarithm": `attention f${head}, a: [T] in [0, 1]) -> [T, V] {
    return ((q @ k.T) * causal_decay(log(a))) @ v
  }`,
  "of a head": `attention f${head}, a: scalar per head in [0, 1]) -> [T, V] {
    return ((q @ k.T) * causal_decay(log(a))) @ v
  }`,
  "a factor of a head": `attention f${head}, a: [K] per head in [0, 1]) -> [T, V] {
    recurrence S: [K, V] { S = a * S + outer(k, v)  yield q @ S }
  }`,
} as const;

type Rule = keyof typeof rules;

const strengths = [-1e-3, -0.1, -1, -30, -100, -1e4, -1e6, -Infinity, 0];

/** Gates of every strength, mostly weak ones, so that there is something to forget. */
function mixed(given: ReadonlyMap<string, HostTensor>): Map<string, HostTensor> {
  let seed = 7;
  const draw = (below: number) => (seed = (seed * 48271) % 2147483647) % below;
  const weak = strengths.slice(0, 3);
  const pick = () => (draw(3) > 0 ? weak[draw(3)]! : strengths[draw(strengths.length)]!);
  const result = new Map(given);
  const g = given.get("g");
  if (g) result.set("g", { ...g, data: g.data.map(pick) });
  const a = given.get("a");
  // The gradient of a factor is that of its logarithm divided by it: of a small one it is rounding.
  const factor = () => (draw(5) > 0 ? Math.exp(weak[draw(3)]!) : 0);
  if (a) result.set("a", { ...a, data: a.data.map((_, i) => (i === 0 ? 0 : factor())) });
  return result;
}

async function check(compiled: Compiled, device: Device, sizes: LaunchSizes, ranks = 1) {
  const given = mixed(randomInputs(compiled, sizes, { initial: true }));
  const result = await runBackward(compiled, device, given, sizes, ranks);
  const { ok, outputs } = await compare(compiled, given, sizes, result);
  expect(ok, JSON.stringify(outputs)).toBe(true);
}

async function checkAll(compiled: Compiled, device: Device, name: Rule) {
  await check(compiled, device, sizesOf({ T: 150 }));
  await check(compiled, device, sizesOf({ T: 150 }), 3);
  await check(compiled, device, { ...sizesOf({ B: 3, T: 150 }), cuSeqlens: [0, 70, 70, 150] });
  if (name === "read before, in reverse") return;
  const sizes = sizesOf({ T: 20 });
  const given = mixed(randomInputs(compiled, sizes, { initial: true }));
  const tensors = await decode({
    manifest: compiled.manifest,
    device,
    inputs: given,
    sizes,
    steps: 4,
  });
  const result = { tensors, bytesSent: [0], messagesSent: [0], times: [] };
  const { ok, outputs } = await compare(compiled, given, sizes, result);
  expect(ok, JSON.stringify(outputs)).toBe(true);
}

const dims = { K: 16, V: 20 };

describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
  const { available, why } = findDevice(kind);
  const own = kind === "cpu" ? (Object.keys(rules) as Rule[]) : (["product", "of a head"] as const);
  describe.each(own)("%s", (name) => {
    let compiled: Compiled;
    let device: Device;
    beforeAll(async () => {
      if (!available) return;
      compiled = compileText(rules[name], {
        dims,
        targets: await targetsFor([kind]),
        backward: true,
      });
      device = await openDevice(kind, compiled, { threads: null, poison: true });
    });
    afterAll(() => device?.close());
    test.skipIf(!available)(`= reference${why}`, () => checkAll(compiled, device, name));
  });
});

describe.skipIf(!software.available).each([
  ["product", "f32"],
  ["delta", "f32"],
  ["product", "bf16"],
  ["delta", "bf16"],
] as const)(`cuda in software, %s, %s${software.why}`, (name, dtype) => {
  test("= reference", async () => {
    const targets = [cudaTarget];
    const compiled = compileText(rules[name], { dims, dtype, targets, backward: true });
    const device = await software.createSoftwareCuda();
    await device.load(artifactOf(compiled));
    await checkAll(compiled, device, name);
    await device.close();
  });
});
