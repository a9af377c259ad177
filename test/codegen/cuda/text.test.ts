/** What kernels on tensor cores must say for their speed, where wrong text would still give right numbers. */
import { expect, test } from "vitest";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import { compileExample } from "../../support/examples.ts";

const textOf = (name: string, kernel: string) => {
  const { files } = compileExample(name, {
    dims: { K: 128, V: 128 },
    dtype: "bf16",
    targets: [cudaTarget],
    backward: true,
  });
  return String(files.get(`cuda/${kernel}.cu`));
};

test("a mask of gates is chosen, not branched to", () => {
  const text = textOf("simple-gla", "simple_gla_forward");
  expect(text).toContain("choose(row >= col, masked[i][j] * exponential(");
  expect(text).not.toMatch(/row >= col \?/);
});

// Where memory is short of second tiles both also wait before they copy to the first ones.
test.each([
  ["retention_forward", 1],
  ["retention_backward_1", 1],
  ["retention_backward_2", 2],
])(
  "%s: one warpgroup carries the state on, the other uses it, and they meet %s times",
  (kernel, meetings) => {
    const text = textOf("retention", kernel);
    const [state, output] = text.slice(text.indexOf("const int role")).split("\n  else {");
    expect(state).toContain("arrive_at<3, 256>()");
    expect(output).toContain("meet_at<3, 256>()");
    for (const role of [state!, output!]) {
      expect(role.split("__syncthreads()")).toHaveLength(1 + meetings);
    }
  },
);
