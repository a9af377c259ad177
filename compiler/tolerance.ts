/**
 * The one table of tolerances: RMS(reference - x) / RMS(reference), by how values are stored.
 *
 *   f32    1e-5   float32 arithmetic everywhere; sums of a few hundred products of unit numbers give
 *                 about 1e-6, strong or long decays a few times more
 *   bf16   0.005  one rounding of each stored number to 8 bits (2^-9 relative), what the field uses
 *   f16    0.001  one rounding to 11 bits (2^-12), states and sums in float32
 */
import type { Dtype, MapFn } from "./tensor/ir.ts";
import type { Rounding } from "./tensor/rounding.ts";

export const tolerances = { f32: 1e-5, f16: 1e-3, bf16: 5e-3 } as const satisfies Record<
  Dtype,
  number
>;

/**
 * Of gradients: twice as many operations, and recomputed states. In 16 bits the upper end of what the
 * field allows (0.002 to 0.008 in bf16): what a norm or a normaliser takes away from a gradient leaves
 * the roundings of its parts, three times as large beside the rest.
 */
export const gradients = { f32: 1e-4, f16: 2e-3, bf16: 8e-3 } as const satisfies Record<
  Dtype,
  number
>;

/**
 * Of float32 numbers that come from 16-bit ones: their products may be made of 16-bit factors, and a
 * gradient of a gate is a sum of such products that all but cancel.
 */
const fromNarrow = {
  f16: { value: tolerances.f16, gradient: 5e-3 },
  bf16: { value: tolerances.bf16, gradient: 2e-2 },
} as const;

/** The tolerance of an output called `name`, stored as `dtype`, of an attention with these inputs. */
export function toleranceOf(name: string, dtype: Dtype, inputs: readonly Dtype[]): number {
  const isGradient = name.startsWith("d_");
  const narrow = (["bf16", "f16"] as const).find((candidate) => inputs.includes(candidate));
  if (dtype === "f32" && narrow) return fromNarrow[narrow][isGradient ? "gradient" : "value"];
  return (isGradient ? gradients : tolerances)[dtype];
}

/**
 * How an output beyond its tolerance is judged: by the RMS error that rounding alone makes of the definition, in the
 * worst of several instances of it. A gradient whose terms cancel (that of a query, where one token is normalised,
 * exactly) has no digits of its own, and a product of one token that is small beside its terms has fewer; such
 * numbers are right to the size of what was summed. `times` of it pass. For float32 that is what kernels do beyond one
 * rounding of each result, by chunks and in other orders; the table leaves fifty times. In 16 bits factors are what
 * costs, and kernels round them no more often than this. Where nothing cancels both are less than the table allows,
 * from some ten tokens on, so that nothing passes there that would not have.
 */
export function roundingOfDtypes(inputs: readonly Dtype[]): {
  readonly instances: readonly Rounding[];
  readonly times: number;
} {
  const narrow = (["bf16", "f16"] as const).find((candidate) => inputs.includes(candidate));
  const factorBits = { f32: 24, f16: 11, bf16: 8 }[narrow ?? "f32"];
  const stretches = [1, 1.1, 1.2, 1.3, 1.45, 1.6, 1.75, 1.9];
  return {
    instances: stretches.map((stretch) => ({ resultBits: 24, factorBits, stretch })),
    times: narrow ? 1 : 16,
  };
}

/** RMS(reference - x). */
export function rmsError(reference: ArrayLike<number>, x: ArrayLike<number>): number {
  let error = 0;
  for (let i = 0; i < reference.length; i++) error += (reference[i]! - x[i]!) ** 2;
  return error === 0 ? 0 : Math.sqrt(error / reference.length);
}

/** RMS(reference - x) / RMS(reference); 0 for equal tensors, also when both are zero or empty. */
export function rmseRatio(reference: ArrayLike<number>, x: ArrayLike<number>): number {
  let [error, scale] = [0, 0];
  for (let i = 0; i < reference.length; i++) {
    error += (reference[i]! - x[i]!) ** 2;
    scale += reference[i]! ** 2;
  }
  return error === 0 ? 0 : Math.sqrt(error / scale);
}

export function maxAbsError(reference: ArrayLike<number>, x: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < reference.length; i++) {
    const error = Math.abs(reference[i]! - x[i]!);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/**
 * Relative error of one pointwise function in float32, in units of its last place (2^-23): 2 for the
 * polynomials, more where errors of an argument are magnified.
 */
export function pointwise(fn: MapFn): number {
  const units: Partial<Record<MapFn, number>> = { gelu: 8, pow: 4, sigmoid: 3, silu: 3, tanh: 3 };
  return (units[fn] ?? 2) * 2 ** -23;
}
