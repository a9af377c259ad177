/**
 * Carried states of a loop that are always equal: they start with the same value and, if they were equal
 * before a step, are equal after it. Found by assuming the best and taking back what does not hold.
 */
import { type Chunks, type Recurrence, type ValueId, mapOperands } from "./ir.ts";

/** For each state, the first state it equals (itself where there is none before it). */
export function equalStates(
  { region, carries }: Recurrence | Chunks,
  inits: readonly (ValueId | null)[],
): number[] {
  const { params } = region;
  const typeOf = (i: number) => params[i]!.type.shape.join();
  let first = params.map((_, i) =>
    params.findIndex((_other, j) => inits[j] === inits[i] && typeOf(j) === typeOf(i)),
  );
  while (first.some((leader, i) => leader !== i)) {
    const numbers = numberValues(region.params, region.ops, first);
    const next = first.map((leader, i) =>
      first.findIndex(
        (other, j) => other === leader && numbers.get(carries[j]!) === numbers.get(carries[i]!),
      ),
    );
    if (next.every((leader, i) => leader === first[i])) break;
    first = next;
  }
  return first;
}

/** Equal numbers for values that are equal when the states of a class are. */
function numberValues(
  params: Recurrence["region"]["params"],
  ops: Recurrence["region"]["ops"],
  first: readonly number[],
): ReadonlyMap<ValueId, ValueId> {
  const numbers = new Map<ValueId, ValueId>();
  params.forEach((param, i) => numbers.set(param.id, params[first[i]!]!.id));
  const known = new Map<string, ValueId>();
  for (const op of ops) {
    const {
      id,
      name: _name,
      span: _span,
      ...rest
    } = mapOperands(op, (value) => numbers.get(value) ?? value);
    const key = JSON.stringify(rest);
    numbers.set(id, known.get(key) ?? id);
    if (!known.has(key)) known.set(key, id);
  }
  return numbers;
}
