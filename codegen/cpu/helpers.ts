/** The helpers that kernels call: their files, and the types by which they are called. */
import half from "./helpers/half.ll";
import math from "./helpers/math.ll";
import vector from "./helpers/vector.ll";

/** Linked into every cpu artifact, by file name; each after those that call it. */
export const helperFiles: Readonly<Record<string, string>> = {
  "half.ll": half,
  "math.ll": math,
  "vector.ll": vector,
};

/** int is i64; floats, halves and ints are pointers; buffers points to pointers. */
export type TypeName =
  "void" | "bool" | "int" | "float" | "vector" | "floats" | "halves" | "ints" | "buffers";

/** A result's type, then the parameters'. */
type Signature = readonly [TypeName, ...TypeName[]];

const unary = ["vector", "vector"] as const satisfies Signature;
const binary = ["vector", "vector", "vector"] as const satisfies Signature;

export const helperTypes = {
  laspc_splat: ["vector", "float"],
  laspc_scalar: ["float", "vector"],
  laspc_lanes: ["vector"],
  laspc_inside: ["vector", "int"],
  laspc_muladd: ["vector", "vector", "vector", "vector"],
  laspc_sum: ["float", "vector"],
  laspc_largest: ["float", "vector"],
  laspc_load: ["vector", "floats"],
  laspc_store: ["void", "vector", "floats"],
  laspc_load_first: ["vector", "floats", "int"],
  laspc_store_first: ["void", "vector", "floats", "int"],
  laspc_load_f16: ["vector", "halves"],
  laspc_store_f16: ["void", "vector", "halves"],
  laspc_load_first_f16: ["vector", "halves", "int"],
  laspc_store_first_f16: ["void", "vector", "halves", "int"],
  laspc_load_bf16: ["vector", "halves"],
  laspc_store_bf16: ["void", "vector", "halves"],
  laspc_load_first_bf16: ["vector", "halves", "int"],
  laspc_store_first_bf16: ["void", "vector", "halves", "int"],
  laspc_transpose: ["void", "floats", "int", "floats", "int"],
  /** Not in a file: the device that compiles the kernels answers it. */
  laspc_has_wide_registers: ["bool"],
  laspc_least: binary,
  laspc_greatest: binary,
  laspc_pow: binary,
  laspc_abs: unary,
  laspc_floor: unary,
  laspc_sqrt: unary,
  laspc_rsqrt: unary,
  laspc_exp: unary,
  laspc_log: unary,
  laspc_sin: unary,
  laspc_cos: unary,
  laspc_tanh: unary,
  laspc_sigmoid: unary,
  laspc_silu: unary,
  laspc_softplus: unary,
  laspc_relu: unary,
  laspc_elu: unary,
  laspc_gelu: unary,
} as const satisfies Record<string, Signature>;

export type HelperName = keyof typeof helperTypes;
