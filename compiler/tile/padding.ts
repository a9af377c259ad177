/**
 * What stands in the padding of a tile: beyond the last token of a short chunk, or beyond the last
 * column of a dim that is no multiple of the target's alignment.
 *
 * A contraction or a reduction reads padding, so it needs exact zeros there (and no infinity on the
 * other side: 0 * inf is NaN). This lattice says when that is so without a mask.
 */
import type { MapFn } from "../tensor/ir.ts";

/**
 * "data": does not vary along the axis, or is one of two numbers that do not, so padding holds the same ordinary
 * numbers as the rest. "sums": sums of those, of none perhaps: exp of them is as finite as of the rest.
 * "positive": an ordinary number above zero, as the small number in a norm leaves of zeros.
 */
export type Padding = "zero" | "data" | "sums" | "positive" | "finite" | "any";

/** The padding of fn(args) along one axis. */
export function paddingOf(fn: MapFn, args: readonly Padding[]): Padding {
  const all = (...allowed: Padding[]) => args.every((arg) => allowed.includes(arg));
  const bounded = all("zero", "data", "sums", "positive", "finite");
  if (all("data")) return "data";
  switch (fn) {
    case "mul":
      if (!bounded) return "any";
      if (args.includes("zero")) return "zero";
      return args.filter((arg) => arg !== "data").join() === "sums" ? "sums" : "finite";
    case "add":
    case "sub":
    case "max":
    case "min":
    case "abs":
    case "sin":
    case "tanh":
    case "relu":
    case "elu":
    case "gelu":
    case "silu":
    case "square":
    case "floor":
      return all("zero") ? "zero" : bounded ? "finite" : "any";
    case "as_bf16":
      return args[0]!;
    case "neg":
      return all("zero") ? "zero" : all("data", "sums") ? "sums" : bounded ? "finite" : "any";
    case "sqrt":
      return all("zero") ? "zero" : all("positive") ? "positive" : "any";
    case "cos":
    case "sigmoid":
    case "softplus":
      return bounded ? "finite" : "any";
    case "lt":
    case "le":
    case "gt":
    case "ge":
    case "eq":
      return "finite";
    case "select": {
      const branches = args.slice(1);
      if (branches.every((arg) => arg === "zero")) return "zero";
      if (branches.every((arg) => arg === "data")) return "data";
      if (branches.every((arg) => ["zero", "data", "sums"].includes(arg))) return "sums";
      return branches.includes("any") ? "any" : "finite";
    }
    case "exp":
      return all("zero", "data", "sums") ? "finite" : "any";
    case "div":
      if (args[1] === "positive" && args[0] !== "any")
        return args[0] === "zero" ? "zero" : "finite";
      return args[1] === "data" && args[0] !== "any" ? args[0]! : "any";
    case "recip":
    case "rsqrt":
      return all("positive") ? "positive" : "any";
    case "log":
      return all("positive") ? "finite" : "any";
    case "pow":
      return "any";
  }
}
