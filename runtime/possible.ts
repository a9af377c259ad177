/** What a manifest says together: every field may have its form, and yet name what is not there. */
import { cutsName } from "./device.ts";
import type { FormCode, FormSpec, KernelSpec, Manifest, TargetCode, TensorSpec } from "./plan.ts";
import { planProblem } from "./verify-plan.ts";

/** The first thing that cannot be meant, in words, or null. */
export function manifestProblem(manifest: Manifest): string | null {
  const { forms, targets, plans, states, segments = {} } = manifest;
  const formNames = new Set(names(forms));
  const launched = Object.entries(segments).flatMap(([form, launches]) => [
    form,
    ...launches.map((launch) => launch.form),
  ]);
  const unknown = launched.find((form) => !formNames.has(form));
  return (
    repeated("form", names(forms)) ??
    repeated("state", names(states)) ??
    repeated("plan", names(plans)) ??
    repeated(
      "target",
      targets.map(({ target }) => target),
    ) ??
    tensorsProblem("the attention", manifest) ??
    first(forms, (form) => tensorsProblem(`form ${form.name}`, form)) ??
    first(forms, (form) => within(`form ${form.name}`, meaningProblem(form, manifest))) ??
    (unknown === undefined ? null : `segments name ${unknown}, which is no form`) ??
    first(targets, (target) => targetProblem(target, forms)) ??
    first(plans, (plan) => within(`plan ${plan.name}`, planProblem(plan, manifest)))
  );
}

function tensorsProblem(
  at: string,
  { inputs, outputs }: Pick<FormSpec, "inputs" | "outputs">,
): string | null {
  const all = [...inputs, ...outputs];
  // An output may have an input's name: it is written in its place.
  const twice = repeated("input", names(inputs)) ?? repeated("output", names(outputs));
  return within(at, twice ?? first(all, tensorProblem));
}

function tensorProblem({ name, per, chunk, dims, dimNames, range }: TensorSpec): string | null {
  if (per === "chunk" && chunk === undefined) return `${name} has no chunk`;
  if (dimNames.length !== dims.length) {
    return `${name} has ${dims.length} dims, but ${dimNames.length} names of them`;
  }
  return range && range.low > range.high ? `the range of ${name} is empty` : null;
}

/** An input of the attention, and a state, is the same in all forms; a size has one name. */
function meaningProblem({ inputs, outputs }: FormSpec, { inputs: own, states, dims }: Manifest) {
  const sizes = new Map(Object.entries(dims));
  const known = new Map(own.map((spec) => [spec.name, kindOf(spec)]));
  for (const state of states) {
    const kind = kindOf({ per: "state", dtype: "f32", dims: state.dims });
    for (const name of [`initial_${state.name}`, `final_${state.name}`]) known.set(name, kind);
  }
  const other = inputs.find((spec) => (known.get(spec.name) ?? kindOf(spec)) !== kindOf(spec));
  if (other) return `${other.name} is ${kindOf(other)}, not ${known.get(other.name)}`;
  return first([...inputs, ...outputs], ({ name, dims: all, dimNames }) => {
    const at = dimNames.findIndex((dim, i) => (sizes.get(dim) ?? Number(dim)) !== all[i]);
    return at < 0 ? null : `${name} has ${all[at]} for ${dimNames[at]}`;
  });
}

function kindOf({ per, dtype, dims }: Pick<TensorSpec, "per" | "dtype" | "dims">): string {
  return `${per} ${dtype} [${dims.join(", ")}]`;
}

function targetProblem({ target, forms: codes }: TargetCode, forms: readonly FormSpec[]) {
  const isCompiled = target !== "reference";
  const problem = (code: FormCode) => {
    const form = forms.find(({ name }) => name === code.form);
    return form ? codeProblem(code, form, isCompiled) : "there is no such form";
  };
  const entries = codes.flatMap(({ kernels }) => kernels.map(({ entry }) => entry));
  const all = codes.map(({ form }) => form);
  const twice = repeated("form", all) ?? repeated("kernel", entries);
  return within(
    `target ${target}`,
    twice ?? first(codes, (code) => within(`form ${code.form}`, problem(code))),
  );
}

function codeProblem(
  { kernels, workspaces, shares = {} }: FormCode,
  form: FormSpec,
  isCompiled: boolean,
) {
  if (kernels.length === 0) return "it has no kernel";
  const tensors = [...form.inputs, ...form.outputs, ...workspaces];
  const known = new Set([...names(tensors), cutsName]);
  const sizes = new Set(["B", "T", "H", "T_total", "token_offset", "packed"]);
  for (const name of names(tensors)) sizes.add(`H_${name}`);
  const shared = Object.keys(shares).find((name) => !known.has(name));
  return (
    repeated("workspace", names(workspaces)) ??
    first(workspaces, tensorProblem) ??
    (shared === undefined ? null : `shares name ${shared}, which is no tensor`) ??
    first(kernels, (kernel) => {
      const [axis] = kernel.grid;
      const isOverHeads = axis?.by === 1 && axis.of.join() === "B,H";
      if (isCompiled && !isOverHeads) return `${kernel.entry}: its first grid axis is not B x H`;
      return within(kernel.entry, kernelProblem(kernel, known, sizes));
    })
  );
}

function kernelProblem(
  { buffers, maps = [], scalars, grid, threads }: KernelSpec,
  known: ReadonlySet<string>,
  sizes: ReadonlySet<string>,
): string | null {
  const tensors = buffers.flatMap(({ name, parts }) => parts ?? [name]);
  const unknown = tensors.find((name) => !known.has(name));
  if (unknown !== undefined) return `takes ${unknown}, which is no tensor`;
  const unmapped = maps.find(({ buffer }) => !tensors.includes(buffer));
  if (unmapped) return `maps ${unmapped.buffer}, which it does not take`;
  const factors = grid.flatMap(({ of }) => of.filter((one) => typeof one === "string"));
  const size = [...scalars, ...factors].find((name) => !sizes.has(name));
  if (size !== undefined) return `asks for ${size}, which is no size`;
  // No target has more.
  if (threads > 1024) return `has ${threads} threads`;
  return repeated("buffer", names(buffers)) ?? repeated("number", scalars);
}

function names(list: readonly { readonly name: string }[]): string[] {
  return list.map(({ name }) => name);
}

function repeated(what: string, list: readonly string[]): string | null {
  const twice = list.find((name, i) => list.indexOf(name) !== i);
  return twice === undefined ? null : `${what} ${twice} is there twice`;
}

function first<T>(list: readonly T[], problem: (one: T) => string | null): string | null {
  for (const one of list) {
    const found = problem(one);
    if (found !== null) return found;
  }
  return null;
}

function within(at: string, problem: string | null): string | null {
  return problem === null ? null : `${at}: ${problem}`;
}
