/**
 * How closely numbers agree that never leave float64; what is stored or computed narrower has its
 * row in `compiler/tolerance.ts`. Measured like there, as RMS(wanted - found) / RMS(wanted).
 *
 *   interpreters   1e-12   sums of at most a thousand terms of like size in another order: 2^-53 for
 *                          each rounding, about a hundred of them in a row, and some room
 *   rules          1e-9    the same through exponentials and divisions of the rules' own, which may
 *                          cancel: a thousand times the row above
 *   slopes         1e-6    gradients beside finite differences of fourth order: steps of 1e-5 leave about
 *                          1e-20 of their own, and 1e-16 / 1e-5 of rounding
 *   downloads      1e-7    one rounding to float32 on the way out (2^-24), nothing else
 */
import { expect } from "vitest";
import { rmseRatio } from "../compiler/tolerance.ts";

export const interpreters = 1e-12;
export const rules = 1e-9;
export const slopes = 1e-6;
export const downloads = 1e-7;

/** Expects as many numbers, and the same but for the order of their sums. */
export function expectClose(found: ArrayLike<number>, wanted: ArrayLike<number>, what = ""): void {
  expect(found.length, what).toBe(wanted.length);
  expect(rmseRatio(wanted, found), what).toBeLessThan(interpreters);
}
