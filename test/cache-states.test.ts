/** What the forward keeps for its gradient: the states before each piece of the sequence. */
import { describe, expect, test } from "vitest";
import { wgslTarget } from "../codegen/wgsl/target.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
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
const always = { available: true, why: "" };

test.each(names)("%s: the first sweep back runs in pieces, each from what was kept", (name) => {
  const { manifest } = compileExample(name, {
    dims: { K: 16, V: 16 },
    targets: [wgslTarget],
    backward: true,
    cacheStates: 128,
  });
  const of = (form: string) => manifest.forms.find((one) => one.name === form)!;
  const kept = of("forward").outputs.filter(({ per }) => per === "chunk");
  const causal = manifest.states.filter((state) => state.causal);
  expect(kept.map((spec) => spec.name)).toEqual(causal.map((state) => `cache_${state.name}`));
  for (const spec of kept) expect(spec.chunk).toBe(128);
  const { forms } = manifest.targets.find(({ target }) => target === "wgsl")!;
  const kernels = forms.find(({ form }) => form === "backward")!.kernels;
  const inPieces = kernels.filter(({ grid }) =>
    grid.some(({ of: [n], by }) => n === "T" && by === 128),
  );
  if (causal.length > 0) expect(inPieces.length).toBeGreaterThan(0);
});

describe.each(["reference", "cpu", "webgpu"] as const)("%s", (kind) => {
  const { available, why } = kind === "reference" ? always : findDevice(kind);
  const some = ["retention", "gated-delta-net", "both-ways"];
  const own = kind === "cpu" ? names : some;
  test.skipIf(!available).each(own)(`%s: the same gradients${why}`, async (name) => {
    const targets = await targetsFor([kind]);
    const options = { dims: { K: 16, V: 20 }, targets, backward: true, cacheStates: 64 };
    const compiled = compileExample(name, options);
    const forms = ["forward", "backward"];
    const device = await openDevice(kind, compiled, { threads: null, poison: true, forms });
    for (const T of [0, 1, 64, 200]) {
      const sizes = sizesOf({ B: 2, T });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${T}: ${JSON.stringify(outputs)}`).toBe(true);
    }
    // Pieces are counted from each packed sequence's own first token.
    const cuSeqlens = [0, 0, 5, 6, 140, 205, 205];
    const sizes = { ...sizesOf({ B: cuSeqlens.length - 1, T: 205 }), cuSeqlens };
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const result = await runBackward(compiled, device, inputs, sizes);
    const { ok, outputs } = await compare(compiled, inputs, sizes, result);
    expect(ok, `packed: ${JSON.stringify(outputs)}`).toBe(true);
    await device.close();
  });
});
