/** Kernels ask for no more shared memory than the GPUs they are compiled for have. */
import { expect, test } from "vitest";
import { type Architecture, architectures, cudaTargetFor } from "../../../codegen/cuda/target.ts";
import { compileExample, exampleNames } from "../../support/examples.ts";

const dims = { K: 128, V: 128 };

test.each(Object.keys(architectures) as Architecture[])("%s", (architecture) => {
  const targets = [cudaTargetFor(architecture)];
  for (const name of exampleNames) {
    const { manifest } = compileExample(name, { dims, dtype: "bf16", targets, backward: true });
    const kernels = manifest.targets
      .filter(({ target }) => target === "cuda")
      .flatMap(({ forms }) => forms.flatMap((form) => form.kernels));
    for (const { entry, sharedBytes } of kernels) {
      expect(sharedBytes, entry).toBeLessThanOrEqual(architectures[architecture] * 1024);
    }
  }
});
