/** Intra-chunk values: workspaces that hold the same in several forms, so that they need not be computed in each. */
import type { DeviceBuffer } from "./device.ts";
import type { FormCode, KernelSpec, SegmentLaunch, TensorSpec } from "./plan.ts";

/** What is known of one call's intra-chunk values, by `intraKey`. */
export type IntraValues = Map<string, DeviceBuffer>;

/** What workspaces of several forms share that hold the same; null: this one is of its form alone. */
export function intraKey({ name, intra }: TensorSpec): string | null {
  return intra === undefined ? null : `${name} of ${intra}`;
}

/** The kernels of a form that have to run where some of its workspaces are known by name. */
export function kernelsBeside(
  { kernels, workspaces }: FormCode,
  known: ReadonlySet<string>,
  part: SegmentLaunch["part"],
): readonly KernelSpec[] {
  const intra = new Set(workspaces.filter((work) => intraKey(work)).map(({ name }) => name));
  return kernels.filter(({ buffers }) => {
    const written = buffers.filter(({ access }) => access === "write").map(({ name }) => name);
    if (part === "intra" && !written.every((name) => intra.has(name))) return false;
    return !written.every((name) => known.has(name));
  });
}
