/** Pointwise functions on vectors: one row for each, an instruction or a helper. */
import type { MapFn } from "../../compiler/tensor/ir.ts";
import type { Builder, Value } from "./builder.ts";
import type { HelperName } from "./helpers.ts";

type Emit = (b: Builder, ...args: Value[]) => Value;

const helper =
  (name: HelperName): Emit =>
  (b, ...args) =>
    b.call(name, ...args);

const flags =
  (compare: (b: Builder, x: Value, y: Value) => Value): Emit =>
  (b, x, y) =>
    b.instructions.CreateSelect(compare(b, x!, y!), b.splat(1), b.splat(0));

const table = {
  neg: (b, x) => b.instructions.CreateFNeg(x!),
  exp: helper("laspc_exp"),
  log: helper("laspc_log"),
  sqrt: helper("laspc_sqrt"),
  rsqrt: helper("laspc_rsqrt"),
  abs: helper("laspc_abs"),
  sin: helper("laspc_sin"),
  cos: helper("laspc_cos"),
  tanh: helper("laspc_tanh"),
  sigmoid: helper("laspc_sigmoid"),
  silu: helper("laspc_silu"),
  softplus: helper("laspc_softplus"),
  relu: helper("laspc_relu"),
  elu: helper("laspc_elu"),
  gelu: helper("laspc_gelu"),
  square: (b, x) => b.instructions.CreateFMul(x!, x!),
  recip: (b, x) => b.instructions.CreateFDiv(b.splat(1), x!),
  floor: helper("laspc_floor"),
  as_bf16: (_, x) => x!,
  add: (b, x, y) => b.instructions.CreateFAdd(x!, y!),
  sub: (b, x, y) => b.instructions.CreateFSub(x!, y!),
  mul: (b, x, y) => b.instructions.CreateFMul(x!, y!),
  div: (b, x, y) => b.instructions.CreateFDiv(x!, y!),
  max: helper("laspc_greatest"),
  min: helper("laspc_least"),
  pow: helper("laspc_pow"),
  lt: flags((b, x, y) => b.instructions.CreateFCmpOLT(x, y)),
  le: flags((b, x, y) => b.instructions.CreateFCmpOLE(x, y)),
  gt: flags((b, x, y) => b.instructions.CreateFCmpOGT(x, y)),
  ge: flags((b, x, y) => b.instructions.CreateFCmpOGE(x, y)),
  eq: flags((b, x, y) => b.instructions.CreateFCmpOEQ(x, y)),
  select: (b, c, x, y) => {
    const { instructions } = b;
    return instructions.CreateSelect(instructions.CreateFCmpUNE(c!, b.zero()), x!, y!);
  },
} satisfies Record<MapFn, Emit>;

/** A function of vectors. */
export function applyFn(b: Builder, fn: MapFn, args: readonly Value[]): Value {
  return (table[fn] as Emit)(b, ...args);
}
