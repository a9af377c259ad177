/** In which order terms of several sums are computed where each is added as it comes. */
import { remembered } from "../support/remembered.ts";
import { type MatMul, type Op, type ValueId, operands } from "../tensor/ir.ts";

/** One summand of a sum that is the value `root`. */
export interface Term {
  readonly root: ValueId;
  readonly term: ValueId;
}

/**
 * The order that holds least at a time: first what comes of products that are there already, then what shares a
 * factor with those, which is over with then, then what needs the fewest new products and factors; else the order of
 * `ops`. A factor that `isLoaded` costs nothing. Sums that terms of others need are complete before those.
 */
export function inTurns(
  terms: readonly Term[],
  ops: ReadonlyMap<ValueId, Op>,
  isLoaded: (op: Op) => boolean,
): readonly Term[] {
  const place = new Map([...ops.keys()].map((id, i) => [id, i]));
  const cones = new Map<ValueId, ReadonlySet<ValueId>>();
  /** A value and all that it comes of. */
  const coneOf = (id: ValueId): ReadonlySet<ValueId> => {
    const op = ops.get(id);
    const cone =
      cones.get(id) ??
      new Set([id, ...(op ? operands(op) : []).flatMap((arg) => [...coneOf(arg)])]);
    cones.set(id, cone);
    return cone;
  };
  const productsOf = remembered(({ term }: Term): readonly MatMul[] =>
    [...coneOf(term)].flatMap((id) => {
      const op = ops.get(id);
      return op?.kind === "matmul" ? [op] : [];
    }),
  );
  /** The factors of a product that have to be made. */
  const factorsOf = ({ lhs, rhs }: MatMul): readonly ValueId[] =>
    [lhs, rhs].flatMap((id): readonly ValueId[] => {
      const op = ops.get(id);
      const of = op?.kind === "transpose" ? op.arg : id;
      const made = ops.get(of);
      return made && isLoaded(made) ? [] : [of];
    });
  const lastProduct = (one: Term) =>
    Math.max(-1, ...productsOf(one).map(({ id }) => place.get(id)!));

  let waiting = [...terms].sort((a, b) => lastProduct(a) - lastProduct(b));
  const [products, factors] = [new Set<ValueId>(), new Set<ValueId>()];
  const turns: Term[] = [];
  while (waiting.length > 0) {
    const open = new Set(waiting.map(({ root }) => root));
    const isReady = ({ root, term }: Term) =>
      [...coneOf(term)].every((id) => id === root || !open.has(id));
    const costOf = (one: Term): number => {
      const fresh = productsOf(one).filter(({ id }) => !products.has(id));
      const needed = new Set(fresh.flatMap(factorsOf));
      const made = [...needed].filter((id) => !factors.has(id)).length;
      const isApart = fresh.length > 0 && made === needed.size;
      return (isApart ? ops.size : 0) + fresh.length + made;
    };
    const { one: best } = waiting
      .filter(isReady)
      .map((one) => ({ one, cost: costOf(one) }))
      .reduce((a, b) => (b.cost < a.cost ? b : a));
    waiting = waiting.filter((one) => one !== best);
    turns.push(best);
    for (const product of productsOf(best)) {
      products.add(product.id);
      for (const id of factorsOf(product)) factors.add(id);
    }
  }
  return turns;
}
