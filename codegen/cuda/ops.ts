/**
 * What every function of a `map` is in CUDA C++. Single-precision functions of CUDA's device library
 * where there is one (1 to 4 ulp, no local memory); a helper file where one expression would repeat
 * its argument, lose digits, or spill: `sinf` and `cosf` keep a table in local memory for large angles.
 */
import type { MapFn } from "../../compiler/tensor/ir.ts";
import { bare, infix } from "../c-like/walk.ts";
import elu from "./helpers/elu.cuh";
import fromBf16 from "./helpers/from_bf16.cuh";
import fromF16 from "./helpers/from_f16.cuh";
import gelu from "./helpers/gelu.cuh";
import sigmoid from "./helpers/sigmoid.cuh";
import silu from "./helpers/silu.cuh";
import softplus from "./helpers/softplus.cuh";
import square from "./helpers/square.cuh";
import toBf16 from "./helpers/to_bf16.cuh";
import toF16 from "./helpers/to_f16.cuh";
import turnedSine from "./helpers/turned_sine.cuh";

/** Functions that are files; a kernel's text starts with those it calls. */
export const helpers = {
  elu,
  from_bf16: fromBf16,
  from_f16: fromF16,
  gelu,
  sigmoid,
  silu,
  softplus,
  square,
  to_bf16: toBf16,
  to_f16: toF16,
  turned_sine: turnedSine,
} as const;
export type Helper = keyof typeof helpers;

/** Told which helper the text calls. */
export type Use = (name: Helper) => Helper;

type Write = (args: readonly string[], use: Use) => string;

/** Tests are written by the walker, as conditions. */
type Test = "lt" | "le" | "gt" | "ge" | "eq" | "select";

const call =
  (name: string): Write =>
  (args) =>
    `${name}(${args.map(bare).join(", ")})`;
const helper =
  (name: Helper): Write =>
  (args, use) =>
    call(use(name))(args, use);
const arithmetic =
  (fn: "add" | "sub" | "mul" | "div"): Write =>
  (args) =>
    infix(fn, args)!;

const ops = {
  neg: ([x]) => (x!.startsWith("-") ? `-(${x})` : `-${x}`),
  exp: call("expf"),
  log: call("logf"),
  sqrt: call("sqrtf"),
  rsqrt: call("rsqrtf"),
  abs: call("fabsf"),
  sin: ([x], use) => `${use("turned_sine")}(${bare(x!)}, 0)`,
  cos: ([x], use) => `${use("turned_sine")}(${bare(x!)}, 1)`,
  tanh: call("tanhf"),
  floor: call("floorf"),
  sigmoid: helper("sigmoid"),
  silu: helper("silu"),
  softplus: helper("softplus"),
  elu: helper("elu"),
  gelu: helper("gelu"),
  square: helper("square"),
  relu: ([x]) => `fmaxf(${bare(x!)}, 0.0f)`,
  recip: ([x]) => `(1.0f / ${x})`,
  add: arithmetic("add"),
  sub: arithmetic("sub"),
  mul: arithmetic("mul"),
  div: arithmetic("div"),
  max: call("fmaxf"),
  min: call("fminf"),
  pow: call("powf"),
} satisfies Record<Exclude<MapFn, Test>, Write>;

/** A function applied to its arguments' text; an infix one is in brackets. */
export function callText(fn: MapFn, args: readonly string[], use: Use): string {
  return ops[fn as keyof typeof ops](args, use);
}

/** A float literal that reads back as the nearest float. */
export function floatText(value: number): string {
  const nearest = Math.fround(value);
  if (Number.isNaN(nearest)) return "__int_as_float(0x7fffffff)";
  if (!Number.isFinite(nearest)) {
    return `__int_as_float(0x${nearest > 0 ? "7f800000" : "ff800000"})`;
  }
  if (nearest === 0) return Object.is(nearest, -0) ? "-0.0f" : "0.0f";
  // Nine digits tell any two floats apart.
  const text = String(nearest === value ? value : Number(value.toPrecision(9)));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}
