/**
 * Forms beside forward: decode steps after a prefill, packed sequences, and extreme inputs; how many
 * kernels a form becomes.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { wgslTarget } from "../codegen/wgsl/target.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import type { Compiled } from "../compiler/index.ts";
import { decode } from "../runtime/decode.ts";
import type { Device, HostTensor, LaunchSizes } from "../runtime/device.ts";
import { findDevice } from "./support/devices.ts";
import {
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "./support/examples.ts";

const names = [...exampleNames, ...ruleNames];
/** What a token needs of those behind it: no step by step. */
const wholeSequence: ReadonlySet<string> = new Set([
  "linear-attention-bidirectional",
  "both-ways",
  "both-then-causal",
  "chained-delta",
]);

describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
  const { available, why } = findDevice(kind);
  // A shader is compiled for minutes on the software driver: there, one rule of each class.
  const own =
    kind === "cpu" ? names : ["retention", "gla", "delta-net", "linear-attention-bidirectional"];

  describe.each(own)("%s", (name) => {
    let compiled: Compiled;
    let device: Device;
    beforeAll(async () => {
      if (!available) return;
      const targets = await targetsFor([kind]);
      compiled = compileExample(name, { dims: { K: 16, V: 20 }, targets, backward: true });
      const forms = ["forward", "step", "backward"];
      device = await openDevice(kind, compiled, { threads: null, poison: true, forms });
    });
    afterAll(() => device?.close());

    async function expectReference(sizes: LaunchSizes, inputs: Map<string, HostTensor>) {
      const result = await runBackward(compiled, device, inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, JSON.stringify(outputs)).toBe(true);
      return result.tensors;
    }

    test.skipIf(!available || wholeSequence.has(name))(
      `a prefill and steps = one forward${why}`,
      async () => {
        for (const [T, steps] of [
          [40, 3],
          [3, 3],
          [65, 1],
        ] as const) {
          const sizes = sizesOf({ B: 2, T });
          const inputs = randomInputs(compiled, sizes, { initial: true });
          const run = { manifest: compiled.manifest, device, inputs, sizes, steps };
          const result = {
            tensors: await decode(run),
            bytesSent: [0],
            messagesSent: [0],
            times: [],
          };
          const { ok, outputs } = await compare(compiled, inputs, sizes, result);
          expect(ok, `T ${T}: ${JSON.stringify(outputs)}`).toBe(true);
        }
      },
    );

    test.skipIf(!available)(`packed = each sequence on its own${why}`, async () => {
      for (const cuSeqlens of [
        [0, 0, 5, 6, 6, 40, 105, 140, 140],
        [0, 33],
        [0, 0],
      ]) {
        const T = cuSeqlens.at(-1)!;
        const sizes = { ...sizesOf({ B: cuSeqlens.length - 1, T }), cuSeqlens };
        const inputs = randomInputs(compiled, sizes, { initial: true });
        const before = await expectReference(sizes, inputs);
        if (T < 105) continue;
        // Another sequence's tokens change nothing here: bit by bit.
        const first = compiled.manifest.inputs[0]!.name;
        const moved = new Map(inputs);
        const { data, ...rest } = inputs.get(first)!;
        const other = data.slice();
        const perToken = other.length / T;
        for (let i = 40 * perToken; i < 105 * perToken; i++) other[i] = 1;
        moved.set(first, { ...rest, data: other });
        const after = await runBackward(compiled, device, moved, sizes);
        for (const { name: output } of compiled.manifest.outputs) {
          const [a, b] = [before.get(output)!.data, after.tensors.get(output)!.data];
          const width = a.length / T;
          expect(b.subarray(0, 40 * width)).toEqual(a.subarray(0, 40 * width));
          expect(b.subarray(105 * width)).toEqual(a.subarray(105 * width));
        }
      }
    });

    test.skipIf(!available || kind !== "cpu")(`gates of every strength${why}`, async () => {
      const sizes = sizesOf({ T: 100 });
      const isGate = ({ range }: { range: { low: number; high: number } | null }) =>
        range?.high === 0 && range.low === -Infinity;
      const gates = compiled.manifest.inputs.filter(isGate);
      // Decays of channels go where no exponent reaches; of one gate for all channels the gradient there is rounding.
      const isPerChannel = gates.length > 0 && gates.every(({ dims }) => dims.length === 2);
      for (const strength of [...(isPerChannel ? [1000] : []), 10, 0.1, 0]) {
        const inputs = randomInputs(compiled, sizes, { initial: true });
        for (const spec of compiled.manifest.inputs) {
          // What is bounded above by 0 is the log of a gate; 0 is a gate that keeps everything.
          const tensor = inputs.get(spec.name)!;
          if (isGate(spec)) {
            inputs.set(spec.name, { ...tensor, data: tensor.data.map((x) => x * strength) });
          }
          if (
            spec.range?.low === 0 &&
            spec.range.high === 1 &&
            spec.per === "head" &&
            strength === 0
          ) {
            inputs.set(spec.name, { ...tensor, data: tensor.data.map(() => 1) });
          }
        }
        await expectReference(sizes, inputs);
      }
    });
  });
});

test.each([...names])("%s: the kernels of each form", (name) => {
  const { manifest } = compileExample(name, {
    dims: { K: 64, V: 64 },
    targets: [wgslTarget, cudaTarget],
    backward: true,
  });
  // Without a mask, or in both directions, one loop ends before the next begins.
  const forwards = wholeSequence.has(name) ? 2 : 1;
  for (const { target, forms } of manifest.targets) {
    if (target === "reference") continue;
    const counts = Object.fromEntries(forms.map(({ form, kernels }) => [form, kernels.length]));
    expect(counts["forward"], `${target} forward`).toBe(forwards);
    expect(counts["backward"], `${target} backward`).toBeLessThanOrEqual(2 * forwards);
    if (counts["step"] !== undefined) expect(counts["step"]).toBe(1);
    // Nothing but states is kept between kernels, and what one direction hands the other.
    const backward = forms.find(({ form }) => form === "backward")!;
    const kept = backward.workspaces.filter(({ per }) => per === "token");
    expect(kept.length, `${target}: ${kept.map((work) => work.name).join()}`).toBeLessThanOrEqual(
      wholeSequence.has(name) ? 8 : 0,
    );
  }
});
