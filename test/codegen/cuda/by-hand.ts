/** The manifest of one kernel that a test made itself. */
import {
  type FormSpec,
  type KernelSpec,
  type Manifest,
  schemaVersion,
} from "../../../runtime/plan.ts";

/** Of the form that the kernel computes, with K columns. */
export function manifestByHand(form: FormSpec, kernel: KernelSpec, cols: number): Manifest {
  const code = { form: form.name, kernels: [kernel], workspaces: [] };
  return {
    schema: schemaVersion,
    name: "by_hand",
    source: "by hand",
    dims: { K: cols },
    inputs: form.inputs,
    outputs: form.outputs,
    states: [],
    forms: [form],
    targets: [{ target: "cuda", files: [], forms: [code] }],
    positional: false,
    plans: [],
  };
}
