/** Inputs nobody gave: drawn from a seed, each tensor from a stream of its own. */
import type { HostTensor } from "./device.ts";
import { elementsOf, newData, toBits } from "./dtype.ts";
import type { TensorSpec } from "./plan.ts";

/**
 * Normal numbers, or inside the tensor's declared range: uniform between two bounds, folded off a
 * single one. The same (seed, name, shape) gives the same numbers whatever else is drawn.
 */
export function randomTensor(spec: TensorSpec, shape: readonly number[], seed: number): HostTensor {
  const next = uniformStream(hash(`${seed}/${spec.name}`));
  const normal = normalStream(next);
  const draw = drawer(spec.range, next, normal);
  const { dtype } = spec;
  const data = newData(dtype, elementsOf(shape));
  for (let i = 0; i < data.length; i++) data[i] = dtype === "f32" ? draw() : toBits(dtype, draw());
  return { dtype, shape, data };
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
