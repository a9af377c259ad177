/** What `--verify` takes for right where terms cancel, and that it takes nothing else. */
import { describe, expect, test } from "vitest";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import type { Dtype } from "../../runtime/plan.ts";
import type { RanksResult } from "../../runtime/run.ts";
import {
  compare,
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
  return compare(compiled, inputs, sizes, { ...result, tensors } satisfies RanksResult);
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
