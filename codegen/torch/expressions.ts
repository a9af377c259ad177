/** Python expressions: text with how tightly it binds, and what every function of a `map` is in torch. */
import type { BinaryFn, MapFn, UnaryFn } from "../../compiler/tensor/ir.ts";

/** How tightly a text binds, as in Python's grammar: a sum, a product, a sign, a call or name. */
export const level = { test: 0, sum: 1, product: 2, sign: 3, atom: 4 } as const;

export interface Expression {
  readonly text: string;
  readonly level: number;
  /** A number that is known; torch's functions need a tensor in its place. */
  readonly value: number | null;
  /** The same as a truth value, where it is one. */
  readonly test: string | null;
}

export function atom(text: string): Expression {
  return { text, level: level.atom, value: null, test: null };
}

export function numberExpression(value: number): Expression {
  const sign = value < 0 || Object.is(value, -0) ? level.sign : level.atom;
  return { text: numberText(value), level: sign, value, test: null };
}

/** A float literal: the shortest decimal that reads back the same. */
export function numberText(value: number): string {
  if (Number.isNaN(value)) return "math.nan";
  if (!Number.isFinite(value)) return value > 0 ? "math.inf" : "-math.inf";
  if (Object.is(value, -0)) return "-0.0";
  const text = String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** The text, in brackets where it binds less tightly than `least`. */
export function bound({ text, level: own }: Expression, least: number): string {
  return own >= least ? text : `(${text})`;
}

function infix(sign: string, own: number): (a: Expression, b: Expression) => Expression {
  return (a, b) => ({
    ...atom(`${bound(a, own)} ${sign} ${bound(b, own + 1)}`),
    level: own,
  });
}

/** Products of matrices, as strong as other products. */
export const product = infix("@", level.product);

const call =
  (name: string) =>
  (...args: readonly Expression[]): Expression =>
    atom(`${name}(${args.map(({ text }) => text).join(", ")})`);

const unary: Readonly<Record<UnaryFn, (x: Expression) => Expression>> = {
  neg: (x) => ({ ...atom(`-${bound(x, level.atom)}`), level: level.sign }),
  exp: call("torch.exp"),
  log: call("torch.log"),
  sqrt: call("torch.sqrt"),
  rsqrt: call("torch.rsqrt"),
  abs: call("torch.abs"),
  sin: call("torch.sin"),
  cos: call("torch.cos"),
  tanh: call("torch.tanh"),
  sigmoid: call("torch.sigmoid"),
  silu: call("functional.silu"),
  softplus: call("functional.softplus"),
  relu: call("torch.relu"),
  elu: call("functional.elu"),
  gelu: call("functional.gelu"),
  square: call("torch.square"),
  recip: call("torch.reciprocal"),
  floor: call("torch.floor"),
  as_bf16: (x) => x,
};

const binary: Readonly<
  Record<Exclude<BinaryFn, Comparison>, (a: Expression, b: Expression) => Expression>
> = {
  add: infix("+", level.sum),
  sub: infix("-", level.sum),
  mul: infix("*", level.product),
  div: infix("/", level.product),
  pow: call("torch.pow"),
  max: (a, b) => clamped("min", "torch.maximum", a, b),
  min: (a, b) => clamped("max", "torch.minimum", a, b),
};

/** A bound that is a number is a clamp: torch's maximum takes tensors only. */
function clamped(side: "min" | "max", name: string, a: Expression, b: Expression): Expression {
  if (b.value !== null) return atom(`${bound(a, level.atom)}.clamp(${side}=${b.text})`);
  if (a.value !== null) return atom(`${bound(b, level.atom)}.clamp(${side}=${a.text})`);
  return call(name)(a, b);
}

const comparisons = { lt: "<", le: "<=", gt: ">", ge: ">=", eq: "==" } as const;
type Comparison = keyof typeof comparisons;

/** A function applied; at least one argument is a tensor. Comparisons give 1 or 0. */
export function apply(fn: MapFn, args: readonly Expression[]): Expression {
  const [a, b, c] = args as [Expression, Expression, Expression];
  if (fn === "select") {
    const test = a.test ?? `${bound(a, level.sum)} != 0.0`;
    return call("torch.where")(atom(test), b, c);
  }
  if (fn in comparisons) {
    const sign = comparisons[fn as Comparison];
    const test = `${bound(a, level.sum)} ${sign} ${bound(b, level.sum)}`;
    return { ...atom(`(${test}).to(sizes.dtype)`), test };
  }
  if (fn in unary) return unary[fn as UnaryFn](a);
  return binary[fn as keyof typeof binary](a, b);
}
