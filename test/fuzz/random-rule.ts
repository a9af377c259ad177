/** Rules of the grammar for property tests: with a length, and a seed for their inputs. */
import fc from "fast-check";
import { type Rule, drawRule } from "./grammar.ts";

export interface RandomRule extends Rule {
  readonly T: number;
  readonly seed: number;
}

/** What fails is made small by `npm run fuzz`, not by the property. */
export const randomRule: fc.Arbitrary<RandomRule> = fc
  .record({ seed: fc.nat(), T: fc.integer({ min: 0, max: 40 }) })
  .map(({ seed, T }) => ({ ...drawRule(seed), T, seed }));
