/** Kernels on tensor cores, executed in software: every rule in 16 bits against the float64 reference. */
import { expect, test, describe } from "vitest";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import {
  artifactOf,
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "../../support/examples.ts";
import { available, backward, createSoftwareCuda, why } from "./software/index.ts";

/** The length whose threads run in the other order as well: one that fills no chunk. */
const turned = 65;

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  const check = async (dtype: "bf16" | "f16", dims: Record<string, number>, lengths: number[]) => {
    const compiled = compileExample(name, { dims, dtype, targets: [cudaTarget], backward: true });
    const device = await createSoftwareCuda();
    await device.load(artifactOf(compiled));
    for (const T of lengths) {
      const sizes = sizesOf({ T, H: 4 });
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const run = () => runBackward(compiled, device, inputs, sizes);
      const results = [await run(), ...(T === turned ? [await backward(run)] : [])];
      for (const result of results) {
        const { ok, outputs } = await compare(compiled, inputs, sizes, result);
        expect(ok, `T ${T}: ${JSON.stringify(outputs)}`).toBe(true);
      }
    }
    await device.close();
  };

  test("bf16: outputs, states and gradients", () =>
    check("bf16", { K: 32, V: 48 }, [0, 1, 65, 150]));
  test("f16, sizes that divide nothing", () => check("f16", { K: 20, V: 36 }, [70]));
});
