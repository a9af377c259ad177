/** What hands on states between ranges: programs on states alone, whatever the attention is. */
import { noSpan } from "../support/span.ts";
import { TensorBuilder } from "./build.ts";
import type { Dim, Output, Program, TensorType, ValueId } from "./ir.ts";
import type { Form, State } from "./passes/shard.ts";

export function stateInput(build: TensorBuilder, label: string, type: TensorType): ValueId {
  return build.add(
    { kind: "input", label, per: "state", dtype: "f32", range: null },
    { name: label },
    type,
  );
}

export function stateOutput(label: string, value: ValueId): Output {
  return { label, value, dtype: "f32", per: "state" };
}

/** What an exchange of a state launches: on states alone, whatever they are of. */
export function exchangeForms(program: Program, state: State): Form[] {
  const { name, decay, dense } = state;
  const forms: Form[] = [{ name: `fold_${name}`, program: fold(program, state, false) }];
  if (dense) forms.push({ name: `fold_bwd_${name}`, program: fold(program, state, true) });
  if (dense || decay !== null)
    forms.push({ name: `compose_${name}`, program: compose(program, state) });
  return forms;
}

function fold(program: Program, state: State, isGradient: boolean): Program {
  const { name, type } = state;
  const build = new TensorBuilder(program.name, program.dims);
  const [d, from, to] = isGradient ? ["d_", "d_final", "d_initial"] : ["", "initial", "final"];
  const kept = stateInput(build, `${from}_${name}`, type);
  const added = stateInput(build, `${d}summary_${name}`, type);
  const factor = factorOf(state);
  const by = factor && stateInput(build, factor.label, factor.type);
  const moved = by === null ? kept : applied(build, state, by, kept, isGradient);
  const origin = { name: `${to}_${name}`, span: noSpan };
  const final = build.map("add", [moved, added], origin);
  return build.finish([stateOutput(`${to}_${name}`, final)]);
}

/** Of a range and the one behind it what both together multiply a state with. */
function compose(program: Program, state: State): Program {
  const { name, dense } = state;
  const build = new TensorBuilder(program.name, program.dims);
  const { type } = factorOf(state)!;
  const [earlier, later] = ["earlier", "later"].map((label) =>
    stateInput(build, `${label}_${name}`, type),
  ) as [ValueId, ValueId];
  const origin = { name: `both_${name}`, span: noSpan };
  const both = dense
    ? build.matmul(later, earlier, origin)
    : build.map("add", [earlier, later], origin);
  return build.finish([stateOutput(`both_${name}`, both)]);
}

/** What a range multiplies a state with: a matrix, a log decay, or null. */
export function factorOf({ name, type, decay, dense }: State) {
  const [key, value] = type.shape as readonly [Dim, Dim];
  if (dense) return { label: `transition_${name}`, type: { shape: [key, key] } };
  if (decay === null) return null;
  const shape = decay === "key" ? [key] : decay === "value" ? [value] : [];
  return { label: `decay_${name}`, type: { shape } };
}

/** A state times the factor of a range, or (`transposed`) its cotangent from the range's end to its start. */
export function applied(
  build: TensorBuilder,
  { type, decay, dense }: State,
  factor: ValueId,
  state: ValueId,
  transposed: boolean,
): ValueId {
  if (dense) return build.matmul(transposed ? build.transpose(factor) : factor, state);
  const [key, value] = type.shape as readonly [Dim, Dim];
  const kept = build.map("exp", [factor]);
  // A vector spreads along the first axis of its size, which for K = V is the key's.
  const isSquare = decay === "value" && key === value;
  const columns = () => build.add({ kind: "outer", lhs: build.const(1, [key]), rhs: kept });
  return build.mul(state, isSquare ? columns() : kept);
}
