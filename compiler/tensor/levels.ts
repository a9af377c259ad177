/**
 * Levels of dependency between states. What a state writes (key, value, gate) may come from reads of other
 * states; then its summary of a range needs what reaches the range of those.
 *
 *   h = ((q @ k.T) * causal()) @ v              level 0: writes inputs only
 *   return ((q @ h.T) * causal()) @ v           level 1: its keys are reads of the first state
 *
 * So exchanges go by levels: summarize, exchange and read level 0, then level 1; cotangents the other way.
 */
import { type Delta, type Op, type Program, type Scan, type ValueId, operands } from "./ir.ts";
import { indexOps } from "./rewrite.ts";

/** The forms that there is one of for each level. */
export type LevelForm = "summary" | "transition" | "summary_bwd" | "exchange" | "exchange_bwd";
export type LevelFormName = LevelForm | `${LevelForm}_level_${number}`;

/** The form of a level: `summary` of level 0, `summary_level_1` of level 1. A kernel's number is no level. */
export function formAt(form: LevelForm, level: number): LevelFormName {
  return level === 0 ? form : `${form}_level_${level}`;
}

/** The states of each level, from level 0 on. */
export function byLevel<S extends { readonly level: number }>(states: readonly S[]): S[][] {
  const levels: S[][] = [];
  for (const state of states) (levels[state.level] ??= []).push(state);
  return levels;
}

/** What a state writes comes from reads of these states, directly; and the level that follows. */
export interface Dependencies {
  readonly level: number;
  readonly writesReadsOf: readonly string[];
}

/** The dependencies of each state, by name. */
export function dependenciesOf(program: Program): ReadonlyMap<string, Dependencies> {
  const ops = indexOps(program);
  const behind = new Map<string, Set<string>>();
  for (const scan of program.ops.filter(isScan)) {
    const known = behind.get(scan.state) ?? new Set();
    for (const state of statesBehind(ops, scan)) known.add(state);
    behind.set(scan.state, known);
  }
  const found = new Map<string, Dependencies>();
  const visit = (state: string): number => {
    const known = found.get(state);
    if (known !== undefined) return known.level;
    const writesReadsOf = [...behind.get(state)!];
    const level = Math.max(0, ...writesReadsOf.map((other) => visit(other) + 1));
    found.set(state, { level, writesReadsOf });
    return level;
  };
  for (const state of behind.keys()) visit(state);
  return found;
}

/** Does a value come from a read of any state? */
export function comesFromReads(ops: ReadonlyMap<ValueId, Op>, id: ValueId): boolean {
  return statesRead(ops, [id], null).size > 0;
}

function isScan(op: Op): op is Scan | Delta {
  return op.kind === "scan" || op.kind === "delta";
}

/** The other states whose reads go into what a scan writes, or erases; its query does not count. */
function statesBehind(ops: ReadonlyMap<ValueId, Op>, scan: Scan | Delta): ReadonlySet<string> {
  const { state, logDecay } = scan;
  const written =
    scan.kind === "delta" ? operands(scan) : scan.writes.flatMap(({ k, v }) => [k, v]);
  return statesRead(ops, logDecay === null ? written : [...written, logDecay], state);
}

/** The states whose reads values come from; those of `own` are looked through. */
function statesRead(
  ops: ReadonlyMap<ValueId, Op>,
  values: readonly ValueId[],
  own: string | null,
): ReadonlySet<string> {
  const found = new Set<string>();
  const seen = new Set<ValueId>();
  const visit = (id: ValueId): void => {
    const op = ops.get(id);
    if (op === undefined || seen.has(id)) return;
    seen.add(id);
    if (isScan(op) && op.state !== own) found.add(op.state);
    else operands(op).forEach(visit);
  };
  values.forEach(visit);
  return found;
}
