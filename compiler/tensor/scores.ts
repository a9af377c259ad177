/**
 * Takes a T x T score matrix apart: scores = sum of terms, each (scale q) k^T times a causal decay.
 *
 * Follows the text upwards through *, /, +, -, and transposes; names play no part. What is not a sum
 * of such terms (a softmax, a square, a mask computed from data) is returned as the op that broke it.
 */
import { type Origin, type TensorBuilder } from "./build.ts";
import { type Op, type ValueId, tokenDim } from "./ir.ts";
import { originOf } from "./rewrite.ts";

/** One term: coefficient * (q k^T, or all ones) * exp(decays) below the diagonal (or no mask). */
export interface ScoreTerm {
  readonly negative: boolean;
  /** [] values multiplied in. */
  readonly scales: readonly ValueId[];
  /** q, k: [T, K]. */
  readonly pair: { readonly q: ValueId; readonly k: ValueId } | null;
  /** Log decays ([] or [T]) of every causal mask; null without one. */
  readonly causal: readonly ValueId[] | null;
}

export interface ScoreFailure {
  readonly op: Op;
  readonly why: string;
}

export type Scores =
  | { readonly ok: true; readonly terms: readonly ScoreTerm[] }
  | { readonly ok: false; readonly failure: ScoreFailure };

const unit: ScoreTerm = { negative: false, scales: [], pair: null, causal: null };

export function isSquare(build: TensorBuilder, id: ValueId): boolean {
  const shape = build.shapeOf(id);
  return shape.length === 2 && shape[0] === tokenDim && shape[1] === tokenDim;
}

export function factorScores(build: TensorBuilder, id: ValueId): Scores {
  const op = build.opOf(id);
  if (!op) throw new Error("scores are never a region's parameter");
  const fail = (why: string, at: Op = op): Scores => ({ ok: false, failure: { op: at, why } });
  const one = (term: Partial<ScoreTerm>): Scores => ({ ok: true, terms: [{ ...unit, ...term }] });
  switch (op.kind) {
    case "causal":
      return one({ causal: op.logDecay === null ? [] : [op.logDecay] });
    case "matmul": {
      if (isSquare(build, op.lhs) || isSquare(build, op.rhs)) {
        return fail("it multiplies T x T matrices with each other");
      }
      return one({ pair: { q: op.lhs, k: transposed(build, op.rhs, originOf(op)) } });
    }
    case "transpose": {
      const inner = factorScores(build, op.arg);
      if (!inner.ok) return inner;
      if (inner.terms.some((term) => term.causal)) {
        return fail("it transposes a causal mask, so that tokens would read the future");
      }
      const swap = ({ q, k }: { q: ValueId; k: ValueId }) => ({ q: k, k: q });
      return {
        ok: true,
        terms: inner.terms.map((term) => ({ ...term, pair: term.pair && swap(term.pair) })),
      };
    }
    case "map":
      break;
    default:
      return fail(`\`${op.kind}\` is not part of a sum of masked products`);
  }
  const args = op.args;
  const square = args.map((arg) => isSquare(build, arg));
  const scalar = (i: number) => build.shapeOf(args[i]!).length === 0;
  switch (op.fn) {
    case "neg":
      return each(factorScores(build, args[0]!), (term) => ({
        ...term,
        negative: !term.negative,
      }));
    case "add":
    case "sub": {
      if (!square[0] || !square[1]) return fail("it adds a constant to every score");
      const [a, b] = [factorScores(build, args[0]!), factorScores(build, args[1]!)];
      if (!a.ok || !b.ok) return a.ok ? b : a;
      const flip = op.fn === "sub";
      const right = b.terms.map((t) => (flip ? { ...t, negative: !t.negative } : t));
      return { ok: true, terms: [...a.terms, ...right] };
    }
    case "div": {
      if (!square[0]) return fail("it divides by the scores");
      if (!scalar(1)) return fail("it divides the scores by something that varies over tokens");
      const inverse = build.map("recip", [args[1]!], originOf(op));
      return each(factorScores(build, args[0]!), (term) => ({
        ...term,
        scales: [...term.scales, inverse],
      }));
    }
    case "mul": {
      for (const [i, j] of [
        [0, 1],
        [1, 0],
      ] as const) {
        if (square[i] && scalar(j)) {
          return each(factorScores(build, args[i]!), (term) => ({
            ...term,
            scales: [...term.scales, args[j]!],
          }));
        }
      }
      if (!square[0] || !square[1]) {
        return fail("it scales the scores by something that varies over tokens");
      }
      const [a, b] = [factorScores(build, args[0]!), factorScores(build, args[1]!)];
      if (!a.ok || !b.ok) return a.ok ? b : a;
      const terms: ScoreTerm[] = [];
      for (const x of a.terms) {
        for (const y of b.terms) {
          if (x.pair && y.pair) return fail("it multiplies scores with scores, elementwise");
          terms.push({
            negative: x.negative !== y.negative,
            scales: [...x.scales, ...y.scales],
            pair: x.pair ?? y.pair,
            causal: x.causal || y.causal ? [...(x.causal ?? []), ...(y.causal ?? [])] : null,
          });
        }
      }
      return { ok: true, terms };
    }
    default:
      return fail(
        `\`${isSoftmax(build, op) ? "softmax" : op.fn}\` of the scores is not linear in them`,
      );
  }
}

/** exp(x - rowmax(x)) is how a softmax begins. */
function isSoftmax(build: TensorBuilder, op: Op): boolean {
  const shifted = op.kind === "map" && op.fn === "exp" ? build.opOf(op.args[0]!) : null;
  if (shifted?.kind !== "map" || shifted.fn !== "sub") return false;
  const most = build.opOf(shifted.args[1]!);
  return most?.kind === "reduce" && most.fn === "max";
}

function each(scores: Scores, f: (term: ScoreTerm) => ScoreTerm): Scores {
  return scores.ok ? { ok: true, terms: scores.terms.map(f) } : scores;
}

function transposed(build: TensorBuilder, id: ValueId, origin: Origin): ValueId {
  const op = build.opOf(id);
  return op?.kind === "transpose" ? op.arg : build.transpose(id, origin);
}
