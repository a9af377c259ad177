/** The built-in functions of the language, as small programs over the tensor ops. */
import type { Origin, TensorBuilder } from "../tensor/build.ts";
import { type Dim, type UnaryFn, type ValueId, tokenDim } from "../tensor/ir.ts";

/** Functions of one value, element by element. */
export const pointwise = [
  "exp",
  "log",
  "sqrt",
  "rsqrt",
  "abs",
  "sin",
  "cos",
  "tanh",
  "sigmoid",
  "silu",
  "softplus",
  "relu",
  "elu",
  "gelu",
  "square",
] as const satisfies readonly UnaryFn[];

/** Every built-in name with how it is called; docs/language.md shows the same list. */
export const builtins: Readonly<
  Record<string, { readonly usage: string; readonly counts: readonly number[] }>
> = {
  ...Object.fromEntries(pointwise.map((fn) => [fn, { usage: `${fn}(x)`, counts: [1] }])),
  max: { usage: "max(a, b)", counts: [2] },
  min: { usage: "min(a, b)", counts: [2] },
  pow: { usage: "pow(x, y)", counts: [2] },
  where: { usage: "where(condition, a, b)", counts: [3] },
  sum: { usage: "sum(x)", counts: [1] },
  mean: { usage: "mean(x)", counts: [1] },
  rowmax: { usage: "rowmax(x)", counts: [1] },
  softmax: { usage: "softmax(x)", counts: [1] },
  l2norm: { usage: "l2norm(x) or l2norm(x, eps)", counts: [1, 2] },
  rmsnorm: {
    usage: "rmsnorm(x), rmsnorm(x, weight) or rmsnorm(x, weight, eps)",
    counts: [1, 2, 3],
  },
  rotary: { usage: "rotary(x) or rotary(x, base)", counts: [1, 2] },
  outer: { usage: "outer(a, b)", counts: [2] },
  causal: { usage: "causal()", counts: [0] },
  causal_decay: { usage: "causal_decay(log_a)", counts: [1] },
};

/** Reduces the last axis. */
export function reduceRows(b: TensorBuilder, fn: "sum" | "max", x: ValueId, at: Origin): ValueId {
  return b.add({ kind: "reduce", fn, arg: x, axis: b.shapeOf(x).length - 1 }, at);
}

/** The size of the last axis as a number. */
function width(b: TensorBuilder, x: ValueId, at: Origin): ValueId {
  const dim = b.shapeOf(x).at(-1)!;
  return typeof dim === "number" ? b.const(dim, [], at) : b.add({ kind: "dim-size", dim }, at);
}

export function mean(b: TensorBuilder, x: ValueId, at: Origin): ValueId {
  return b.map("div", [reduceRows(b, "sum", x, at), width(b, x, at)], at);
}

export function softmax(b: TensorBuilder, x: ValueId, at: Origin): ValueId {
  const shifted = b.map("sub", [x, reduceRows(b, "max", x, at)], at);
  const weights = b.map("exp", [shifted], at);
  return b.map("div", [weights, reduceRows(b, "sum", weights, at)], at);
}

/** x / sqrt(sum(x^2) + eps), the norm FLA's kernels use. */
export function l2norm(b: TensorBuilder, x: ValueId, eps: number, at: Origin): ValueId {
  const squares = reduceRows(b, "sum", b.map("square", [x], at), at);
  const inverse = b.map("rsqrt", [b.map("add", [squares, b.const(eps)], at)], at);
  return b.mul(x, inverse, at);
}

export function rmsnorm(
  b: TensorBuilder,
  x: ValueId,
  weight: ValueId | null,
  eps: number,
  at: Origin,
): ValueId {
  const squares = mean(b, b.map("square", [x], at), at);
  const inverse = b.map("rsqrt", [b.map("add", [squares, b.const(eps)], at)], at);
  const normed = b.mul(x, inverse, at);
  return weight === null ? normed : b.mul(normed, weight, at);
}

/**
 * Rotary positions (RoFormer, arXiv 2104.09864), halves convention: column i and i + D/2 turn by
 * t * base^(-2i/D), t the token's place in the whole sequence.
 */
export function rotary(b: TensorBuilder, x: ValueId, base: number, at: Origin): ValueId {
  const dim = b.shapeOf(x).at(-1) as Dim;
  const size = width(b, x, at);
  const index = b.add({ kind: "iota" }, at, { shape: [dim] });
  const half = b.mul(size, b.const(0.5), at);
  const upper = b.map("ge", [index, half], at);
  const pair = b.map("sub", [index, b.mul(upper, half, at)], at);
  const step = b.map("div", [b.const(-2 * Math.log(base)), size], at);
  const speed = b.map("exp", [b.mul(pair, step, at)], at);
  const token = b.add({ kind: "token-index" }, at, { shape: [tokenDim] });
  const angle = b.mul(token, speed, at);
  const turned = b.add({ kind: "rotate-half", arg: x }, at);
  const straight = b.mul(x, b.map("cos", [angle], at), at);
  return b.map("add", [straight, b.mul(turned, b.map("sin", [angle], at), at)], at);
}
