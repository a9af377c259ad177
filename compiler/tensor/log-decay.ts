/**
 * The natural logarithm of a decay, found in the text of the decay itself: log exp(g) is g.
 *
 * A decay written as exp(...), sigmoid(...), a product, a quotient, a power or a positive constant
 * gives an exact logarithm. Any other expression must be known to be positive or zero (from declared
 * ranges); then its logarithm is taken, and a decay below the smallest normal float32 forgets everything.
 */
import type { TensorBuilder } from "./build.ts";
import type { ValueId } from "./ir.ts";

/** A log decay that forgets everything: exp of it is exactly 0, in float64 too, and sums of a chunk's stay finite. */
export const forgetting = -1024;

const smallestNormal = 2 ** -126;

/** A constant log decay where it is no deeper than `forgetting`. Not a maximum: that might lose a NaN. */
export function bounded(build: TensorBuilder, log: ValueId): ValueId {
  if (rangeOf(build, log).low >= forgetting) return log;
  const op = build.opOf(log);
  const origin = op ? { name: op.name ?? "log_decay", span: op.span } : {};
  const floor = build.const(forgetting);
  const isDeeper = build.map("lt", [log, floor], { ...origin, name: null });
  return build.map("select", [isDeeper, floor, log], origin);
}

/** A log decay with its logarithms of what may be 0 taken as `logOf` does: with finite gradients. */
export function withoutPoles(build: TensorBuilder, log: ValueId): ValueId {
  const op = build.opOf(log);
  if (op?.kind !== "map") return log;
  if (op.fn === "log") return logOf(build, op.args[0]!) ?? log;
  if (!["add", "sub", "mul", "select"].includes(op.fn)) return log;
  const args = op.args.map((arg) => withoutPoles(build, arg));
  const isSame = args.every((arg, i) => arg === op.args[i]);
  return isSame ? log : build.map(op.fn, args, { name: op.name, span: op.span });
}

/** The value of log(`decay`), or null when `decay` cannot be shown to be >= 0. */
export function logOf(build: TensorBuilder, decay: ValueId): ValueId | null {
  const op = build.opOf(decay);
  const origin = op ? { name: op.name, span: op.span } : {};
  const both = (fn: "add" | "sub", a: ValueId, b: ValueId): ValueId | null => {
    const [x, y] = [logOf(build, a), logOf(build, b)];
    return x === null || y === null ? null : build.map(fn, [x, y], origin);
  };
  if (op?.kind === "const" && op.value > 0) {
    return build.const(Math.log(op.value), op.type.shape, origin);
  }
  if (op?.kind === "map") {
    const [a, b] = op.args as [ValueId, ValueId];
    switch (op.fn) {
      case "exp":
        return withoutPoles(build, a);
      case "sigmoid": {
        // log sigmoid(x) = -softplus(-x), exact also where sigmoid underflows.
        const negated = build.map("neg", [a], origin);
        return build.map("neg", [build.map("softplus", [negated], origin)], origin);
      }
      case "mul":
        return both("add", a, b);
      case "div":
        return both("sub", a, b);
      case "recip": {
        const log = logOf(build, a);
        return log === null ? null : build.map("neg", [log], origin);
      }
      case "sqrt":
      case "rsqrt": {
        const log = logOf(build, a);
        const half = build.const(op.fn === "sqrt" ? 0.5 : -0.5);
        return log === null ? null : build.mul(log, half, origin);
      }
      case "pow": {
        const log = logOf(build, a);
        return log === null ? null : build.mul(log, b, origin);
      }
      case "select": {
        const [x, y] = [logOf(build, b), logOf(build, op.args[2]!)];
        return x === null || y === null ? null : build.map("select", [a, x, y], origin);
      }
      default:
    }
  }
  const range = rangeOf(build, decay);
  if (!(range.low >= 0)) return null;
  if (range.low >= smallestNormal) return build.map("log", [decay], origin);
  const least = build.const(smallestNormal);
  const log = build.map("log", [build.map("max", [decay, least], origin)], origin);
  const isKeeping = build.map("ge", [decay, least], origin);
  return build.map("select", [isKeeping, log, build.const(forgetting)], origin);
}

interface Interval {
  readonly low: number;
  readonly high: number;
}

const anything: Interval = { low: -Infinity, high: Infinity };

/** Interval arithmetic over what the parameters' declared ranges say. Never narrower than the truth. */
export function rangeOf(build: TensorBuilder, value: ValueId): Interval {
  const op = build.opOf(value);
  if (!op) return anything;
  switch (op.kind) {
    case "input":
      return op.range ?? anything;
    case "const":
      return { low: op.value, high: op.value };
    case "dim-size":
    case "iota":
    case "token-index":
      return { low: 0, high: Infinity };
    case "rows":
    case "transpose":
      return rangeOf(build, op.arg);
    case "map":
      break;
    default:
      return anything;
  }
  const [a, b] = op.args.map((arg) => rangeOf(build, arg)) as [Interval, Interval];
  const monotone = (f: (x: number) => number): Interval => ({ low: f(a.low), high: f(a.high) });
  switch (op.fn) {
    case "exp":
      return monotone(Math.exp);
    case "log":
      return a.low > 0 ? monotone(Math.log) : anything;
    case "sigmoid":
      return monotone((x) => 1 / (1 + Math.exp(-x)));
    case "softplus":
      return monotone((x) => (x > 500 ? x : Math.log1p(Math.exp(x))));
    case "tanh":
      return monotone(Math.tanh);
    case "relu":
      return monotone((x) => Math.max(x, 0));
    case "floor":
      return monotone(Math.floor);
    case "neg":
      return { low: -a.high, high: -a.low };
    case "abs":
    case "square":
    case "sqrt":
    case "rsqrt":
    case "lt":
    case "le":
    case "gt":
    case "ge":
    case "eq":
      return { low: 0, high: Infinity };
    case "recip":
      return a.low > 0 ? { low: 0, high: Infinity } : anything;
    case "add":
      return { low: a.low + b.low, high: a.high + b.high };
    case "sub":
      return { low: a.low - b.high, high: a.high - b.low };
    case "mul":
      return a.low >= 0 && b.low >= 0 ? { low: 0, high: Infinity } : anything;
    case "div":
      return a.low >= 0 && b.low > 0 ? { low: 0, high: Infinity } : anything;
    case "max":
      return { low: Math.max(a.low, b.low), high: Math.max(a.high, b.high) };
    case "min":
      return { low: Math.min(a.low, b.low), high: Math.min(a.high, b.high) };
    case "select": {
      const c = rangeOf(build, op.args[2]!);
      return { low: Math.min(b.low, c.low), high: Math.max(b.high, c.high) };
    }
    case "pow":
      return a.low >= 0 ? { low: 0, high: Infinity } : anything;
    default:
      return anything;
  }
}
