/** The schedule whose exchange costs least: `--schedule auto`. */
import type { Manifest } from "../../runtime/plan.ts";
import { scheduleCost } from "./cost.ts";
import type { Link } from "./fabrics.ts";
import type { Sizes } from "../../runtime/layout.ts";

/** Simplest first: where two cost the same, that one. */
const candidates = ["ring", "allgather", "tree", "allscan"] as const;

/**
 * By the alpha-beta model of `cost.ts`, from the states' sizes, what ranges multiply them with, the ranks along the
 * sequence, and the slowest link between them.
 */
export function cheapest(manifest: Manifest, ranks: number, link: Link, sizes: Sizes) {
  const cost = (name: string) => scheduleCost(manifest, name, ranks, link, sizes)!.seconds;
  return candidates.reduce((best, name) => (cost(name) < cost(best) ? name : best));
}
