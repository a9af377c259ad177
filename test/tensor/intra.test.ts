/** Names of what chunks compute of inputs alone: one for equal values, whatever form they stand in. */
import { expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import type { Dtype } from "../../compiler/tensor/ir.ts";
import { compileExample } from "../support/examples.ts";

function workspacesOf(name: string, dtype: Dtype) {
  const options = { dims: { K: 128, V: 128 }, dtype, targets: [cudaTarget], backward: true };
  const { manifest } = compileExample(name, options);
  const { forms } = manifest.targets.find(({ target }) => target === "cuda")!;
  return new Map(forms.map(({ form, workspaces }) => [form, workspaces]));
}

const named = (works: readonly { name: string; intra?: number }[]) =>
  works.flatMap(({ name, intra }) => (intra === undefined ? [] : [`${name} of ${intra}`])).sort();

test("what gradients and summaries invert is the forward's, and so is all they make of the same", () => {
  for (const name of ["delta-net", "gated-delta-net"]) {
    const of = workspacesOf(name, "bf16");
    const forward = named(of.get("forward")!);
    expect(forward).toContain("intra_inverse of 64");
    for (const form of ["backward", "summary", "transition"]) {
      expect(forward, form).toEqual(expect.arrayContaining(named(of.get(form)!)));
    }
    // A kernel of its own makes what the sweep of cotangents needs beside.
    const others = named(of.get("summary_bwd")!).filter((one) => !forward.includes(one));
    expect(others).toEqual(["intra_masked of 64", "intra_query of 64"]);
  }
});

test("values of one name in chunks of other lengths are others", () => {
  const of = workspacesOf("kda", "bf16");
  expect(named(of.get("forward")!)).toContain("intra_inverse of 32");
  expect(named(of.get("backward")!)).toContain("intra_inverse of 16");
});

test("what depends on a state or a cotangent has no such name", () => {
  const backward = workspacesOf("delta-net", "bf16").get("backward")!;
  const others = backward.filter(({ intra }) => intra === undefined);
  expect(others.map(({ name }) => name.replace(/_\d+$/, ""))).toEqual([
    "work_S",
    "work_value",
    "work_query",
    "work_masked",
    "work_d_S",
  ]);
});
