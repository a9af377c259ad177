/** What `--verify` takes for right where terms cancel, and that it takes nothing else. */
import { describe, expect, test } from "vitest";
import { setTimeout } from "node:timers/promises";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { compareWithReference } from "../../compiler/cli/reference.ts";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import { fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import type { Dtype } from "../../runtime/plan.ts";
import type { RanksResult } from "../../runtime/run.ts";
import {
  compileExample,
  randomInputs,
  referencePrograms,
  runBackward,
  sizesOf,
} from "../support/examples.ts";

/** Judges the reference's own numbers, one output of them changed. */
async function judge(
  example: string,
  { dtype, T, K = 16 }: { dtype: Dtype; T: number; K?: number },
  output: string,
  change: (x: number, i: number) => number,
  said: string[] = [],
) {
  const compiled = compileExample(example, { dims: { K, V: K }, dtype, backward: true });
  const device = createReferenceDevice(referencePrograms(compiled));
  const sizes = sizesOf({ T });
  const inputs = randomInputs(compiled, sizes, { seed: 0 });
  const result = await runBackward(compiled, device, inputs, sizes);
  const { dtype: stored, data, shape } = result.tensors.get(output)!;
  const changed = toNumbers(stored, data).map(change);
  const tensors = new Map(result.tensors);
  tensors.set(output, { dtype: stored, shape, data: fromNumbers(stored, changed) });
  const changedResult = { ...result, tensors } satisfies RanksResult;
  const say = (text: string) => said.push(text);
  return compareWithReference({ compiled, inputs, sizes, result: changedResult, say });
}

/** Plus or minus the size, so that no mean is moved. */
const shaken = (size: number) => (x: number, i: number) => x + (i % 2 === 0 ? size : -size);
const scaled = (factor: number) => (x: number) => x * factor;

describe("the gradient of a query that one token is normalised by: exactly zero", () => {
  const at = { dtype: "f32", T: 1 } as const;
  test.each(["normalised-linear-transformer", "linear-attention-bidirectional"])(
    "%s",
    async (rule) => {
      const right = await judge(rule, at, "d_q", shaken(1e-7));
      expect(right.outputs["d_q"]!.rmse_ratio).toBeGreaterThan(right.tolerance["d_q"]!);
      expect(right.ok, JSON.stringify(right)).toBe(true);
      expect(Object.keys(right.rounding)).toEqual(["d_q"]);
      expect(right.rounding["d_q"]).toBeLessThan(1e-5);
      expect((await judge(rule, at, "d_q", shaken(1e-4))).ok).toBe(false);
      expect((await judge(rule, at, "d_q", () => NaN)).ok).toBe(false);
      // Others of the same run are held to their table.
      expect((await judge(rule, at, "d_v", scaled(1.001))).ok).toBe(false);
    },
  );
});

test.each([
  ["gated-delta-net", 64],
  ["several-states", 32],
])("%s of one token in bf16, %d wide: a product small beside its terms", async (rule, K) => {
  const at = { dtype: "bf16", T: 1, K } as const;
  // Kernels with 16-bit factors are so far off; factors alone leave 0.007 and 0.012 of the worst instance.
  expect((await judge(rule, at, "o", scaled(1.0064))).ok).toBe(true);
  expect((await judge(rule, at, "o", scaled(1.02))).ok).toBe(false);
});

test("where nothing cancels the table holds", async () => {
  expect((await judge("gla", { dtype: "f32", T: 20 }, "o", scaled(1 + 5e-6))).ok).toBe(true);
  expect((await judge("gla", { dtype: "f32", T: 20 }, "o", scaled(1 + 2e-5))).ok).toBe(false);
  const bf16 = { dtype: "bf16", T: 40 } as const;
  expect((await judge("gated-delta-net", bf16, "o", scaled(1.0064))).ok).toBe(false);
  expect((await judge("gated-delta-net", bf16, "d_k", scaled(1.01))).ok).toBe(false);
});

test("what rounding leaves is looked at no longer than it takes, and each look is said", async () => {
  const at = { dtype: "f32", T: 1 } as const;
  const looks = async (size: number) => {
    const said: string[] = [];
    await judge("normalised-linear-transformer", at, "d_q", shaken(size), said);
    return said.filter((text) => text.includes("d_q: what rounding alone leaves"));
  };
  expect(await looks(0)).toEqual([]);
  expect(await looks(1e-7)).toHaveLength(1);
  expect(await looks(1e-4)).toHaveLength(8);
});

test("heads that are evaluated side by side give the same bits, whichever is done first", async () => {
  const dims = { K: 4, V: 4 };
  const compiled = compileExample("bonus-read", { dims, backward: true });
  const sizes = sizesOf({ T: 9, B: 2, H: 4 });
  const inputs = randomInputs(compiled, sizes, { seed: 0 });
  let [running, most, asked] = [0, 0, 0];
  const evaluator = {
    width: 3,
    evaluate: async (...args: Parameters<typeof interpretTensor>) => {
      most = Math.max(most, ++running);
      await setTimeout([9, 1, 4][asked++ % 3]);
      running--;
      return interpretTensor(...args);
    },
  };
  const programs = referencePrograms(compiled);
  const [one, several] = await Promise.all(
    [undefined, evaluator].map((which) =>
      runBackward(compiled, createReferenceDevice(programs, null, which), inputs, sizes),
    ),
  );
  expect(most).toBe(3);
  expect(several!.tensors).toEqual(one!.tensors);
});
