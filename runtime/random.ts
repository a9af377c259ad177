/** Inputs nobody gave: drawn from a seed, each tensor from a stream of its own. */
import type { HostTensor } from "./device.ts";
import { elementsOf, newData, toBits } from "./dtype.ts";
import type { TensorSpec } from "./plan.ts";

/**
 * How inputs are drawn. `declared`: normal, or inside the declared range. The others differ from it for gates, which
 * are inputs with a range up to 0 (logs of decays) or from 0 to 1: `weak` close to the end that keeps a state, `zero`
 * at it, `mixed` of all strengths side by side, from the one end to the other; and `constant` has the same row for
 * all tokens (see `drawOf`).
 */
export const draws = ["declared", "weak", "zero", "mixed", "constant"] as const;
export type Draw = (typeof draws)[number];

/**
 * How one of several inputs is drawn: `constant` is every second one, of q, k, v, g the keys and the gates. Were all of
 * them, one number alone would decide how exact any result is.
 */
export function drawOf(draw: Draw, index: number): Draw {
  return draw === "constant" && index % 2 === 0 ? "declared" : draw;
}

/**
 * Normal numbers, or inside the tensor's declared range: uniform between two bounds, folded off a
 * single one. The same (seed, name, shape, draw) gives the same numbers whatever else is drawn.
 */
export function randomTensor(
  spec: TensorSpec,
  shape: readonly number[],
  seed: number,
  draw: Draw = "declared",
): HostTensor {
  const next = streamOf(`${seed}/${spec.name}`);
  const own = drawer(spec.range, next, normalStream(next));
  const number = isGate(spec.range) ? (gateDrawers[draw]?.(spec.range, next, own) ?? own) : own;
  const { dtype } = spec;
  const data = newData(dtype, elementsOf(shape));
  for (let i = 0; i < data.length; i++) {
    data[i] = dtype === "f32" ? number() : toBits(dtype, number());
  }
  if (draw === "constant" && spec.per === "token") repeatRows(data, shape);
  return { dtype, shape, data };
}

type Range = NonNullable<TensorSpec["range"]>;

/** Is it the log of a decay, or a factor from 0 to 1? */
export function isGate(range: TensorSpec["range"]): range is Range {
  return range !== null && (range.high === 0 || (range.low === 0 && range.high === 1));
}

/** The nearest number to `x` that lies inside the range, in any dtype. */
function inside({ low, high, lowOpen, highOpen }: Range, x: number): number {
  const [least, most] = [lowOpen ? low + 2 ** -8 : low, highOpen ? high - 2 ** -8 : high];
  return Math.max(least, Math.min(most, x));
}

type GateDrawer = (range: Range, next: () => number, declared: () => number) => () => number;

const gateDrawers: Partial<Record<Draw, GateDrawer>> = {
  weak: (range, next) => () => inside(range, range.high - next() / 100),
  zero: (range) => () => inside(range, range.high),
  mixed: (range, next, declared) => {
    const width = (times: number) => inside(range, range.high - times * next());
    const strengths = [
      () => inside(range, range.high),
      () => width(1 / 100),
      declared,
      () => width(1e2),
      () => width(1e4),
      () => width(1e6),
      // The other end: a state is forgotten there, exactly where the range has it.
      () => inside(range, range.lowOpen && range.low === -Infinity ? -1e6 : range.low),
    ];
    return () => strengths[Math.floor(strengths.length * next())]!();
  },
};

/** Each row of tokens, [B, T, ...], becomes a copy of the first. */
function repeatRows(data: HostTensor["data"], [, T, ...rest]: readonly number[]): void {
  const width = elementsOf(rest);
  for (let at = width; at < data.length; at += width) {
    if ((at / width) % T! !== 0) data.copyWithin(at, at - width, at);
  }
}

function drawer(
  range: TensorSpec["range"],
  next: () => number,
  normal: () => number,
): () => number {
  if (range === null) return normal;
  const { low, high } = range;
  if (Number.isFinite(low) && Number.isFinite(high)) {
    // (next() is inside (0, 1), so open bounds are never met.)
    return () => low + (high - low) * next();
  }
  if (Number.isFinite(high)) return () => high - Math.abs(normal());
  if (Number.isFinite(low)) return () => low + Math.abs(normal());
  return normal;
}

/** Numbers inside (0, 1), the same for the same text. */
export function streamOf(text: string): () => number {
  return uniformStream(hash(text));
}

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const char of text) h = Math.imul(h ^ char.codePointAt(0)!, 0x01000193);
  return h >>> 0;
}

/** Numbers inside (0, 1): a Weyl sequence through a mixer (splitmix32). */
function uniformStream(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32 + 2 ** -33;
  };
}

/** Box and Muller, both numbers of a pair. */
function normalStream(next: () => number): () => number {
  let spare: number | null = null;
  return () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(next()));
    const angle = 2 * Math.PI * next();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}
