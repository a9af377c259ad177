/**
 * What is no number stays where it belongs: NaN or an infinity in one token leaves earlier tokens, other heads, other
 * batch rows and other sequences as they are, bit for bit.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import type { Compiled } from "../compiler/index.ts";
import type { Device, HostTensor, LaunchSizes } from "../runtime/device.ts";
import * as software from "./codegen/cuda/software/index.ts";
import { findDevice } from "./support/devices.ts";
import {
  artifactOf,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runRing,
  sizesOf,
} from "./support/examples.ts";

/** A token in the middle of a chunk of 32 or 64; the last one's chunk is short. */
const bad = 37;
const padded = sizesOf({ T: 70, B: 2 });
const packed = { ...sizesOf({ T: 110, B: 3 }), cuSeqlens: [0, 20, 90, 110] };

/** The token, and in which tokens its sequence begins and ends, in row 0 of the batch. */
const cases = [
  { title: "padded", sizes: padded, token: bad, sequence: [0, 70] },
  { title: "packed", sizes: packed, token: 20 + bad, sequence: [20, 90] },
] as const;

async function check(compiled: Compiled, device: Device) {
  const { manifest } = compiled;
  // In other rules every token reads those behind it.
  const isCausal = manifest.states.every(({ causal, reverse }) => causal && !reverse);
  const run = async (inputs: Map<string, HostTensor>, sizes: LaunchSizes) =>
    (await runRing(compiled, [device], inputs, sizes)).tensors;
  for (const { title, sizes, token, sequence } of cases) {
    const [start, end] = [isCausal ? token : sequence[0], sequence[1]];
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const before = await run(inputs, sizes);
    for (const { name } of manifest.inputs.filter(({ per }) => per === "token")) {
      for (const value of [NaN, Infinity, -Infinity]) {
        const tensor = inputs.get(name)!;
        const [, , H = 1, width = 1] = tensor.shape as number[];
        const data = tensor.data.slice();
        const row = token * H * width;
        // Its last column alone: the others stay numbers.
        data[row + width - 1] = value;
        const after = await run(new Map(inputs).set(name, { ...tensor, data }), sizes);
        for (const output of manifest.outputs) {
          const [a, b] = [before.get(output.name)!, after.get(output.name)!];
          const [, T, heads = 1, columns = 1] = a.shape as [number, number, number?, number?];
          const changed = new Set<string>();
          for (const [at, x] of a.data.entries()) {
            const place = Math.floor(at / columns);
            const [head, t] = [place % heads, Math.floor(place / heads) % T];
            const isFirstRow = place < T * heads;
            if (head === 0 && isFirstRow && t >= start && t < end) continue;
            if (!Object.is(x, b.data[at])) changed.add(`token ${t} head ${head}`);
          }
          expect([...changed], `${title}: ${value} in ${name}`).toEqual([]);
        }
      }
    }
  }
}

const dims = { K: 16, V: 20 };

describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
  const { available, why } = findDevice(kind);
  const own = kind === "cpu" ? [...exampleNames, ...ruleNames] : ["simple-gla", "gated-delta-net"];
  describe.each(own)("%s", (name) => {
    let compiled: Compiled;
    let device: Device;
    beforeAll(async () => {
      if (!available) return;
      compiled = compileExample(name, { dims, targets: await targetsFor([kind]) });
      device = await openDevice(kind, compiled, {
        threads: null,
        poison: true,
        forms: ["forward"],
      });
    });
    afterAll(() => device?.close());
    test.skipIf(!available)(`what is no number stays behind${why}`, () => check(compiled, device));
  });
});

describe.skipIf(!software.available).each(["simple-gla", "gla", "gated-delta-net"])(
  `cuda in software, %s${software.why}`,
  (name) => {
    test("what is no number stays behind", async () => {
      const compiled = compileExample(name, { dims, targets: [cudaTarget] });
      const device = await software.createSoftwareCuda();
      await device.load(artifactOf(compiled), ["forward"]);
      await check(compiled, device);
      await device.close();
    });
  },
);
