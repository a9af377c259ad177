/**
 * How many registers a kernel's tiles need at once. Between products and other work on whole tiles, which
 * need all of a tile before anything of the result is there, elements come and go one at a time: what
 * lives only between two of those costs nothing.
 */
import { readsOf, writesOf } from "./accesses.ts";
import type { Kernel, Stmt, StorageId } from "./ir.ts";

type Live = Set<StorageId>;

/** Registers of a thread that live tiles take. */
export interface Pressure {
  readonly most: number;
  /** Of all places that need all at once: what is held for long counts often, and so does what is made again. */
  readonly sum: number;
}

/** What a kernel's tiles hold, `registersOf` each. */
export function pressureOf(
  kernel: Kernel,
  registersOf: (rows: number, cols: number) => number,
): Pressure {
  const sizes = kernel.storages.map(({ memory, shape }) =>
    memory === "register" && shape.length === 2 ? registersOf(shape[0]!, shape[1]!) : 0,
  );
  let [most, sum] = [0, 0];
  before(kernel.body, new Set(), (live) => {
    const held = [...live].reduce((all, id) => all + sizes[id]!, 0);
    most = Math.max(most, held);
    sum += held;
  });
  return { most, sum };
}

/** The most registers of a thread that live tiles take, `registersOf` each. */
export function registerPressure(
  kernel: Kernel,
  registersOf: (rows: number, cols: number) => number,
): number {
  return pressureOf(kernel, registersOf).most;
}

/** What lives before statements of which `after` is read later; tells of every place that needs all at once. */
function before(stmts: readonly Stmt[], after: Live, tell: (live: Live) => void): Live {
  let live = new Set(after);
  for (const stmt of [...stmts].reverse()) {
    if (stmt.kind === "loop") {
      // Twice round: what a turn leaves for the next lives all through it.
      const turn = before(stmt.body, live, () => {});
      live = new Set([...live, ...before(stmt.body, new Set([...live, ...turn]), tell)]);
      continue;
    }
    const [reads, writes] = [readsOf(stmt), writesOf(stmt)];
    if (takesWhole(stmt)) tell(new Set([...live, ...writes]));
    // A product adds to what is there.
    if (stmt.kind !== "mma") for (const id of writes) live.delete(id);
    for (const id of [...reads, ...(stmt.kind === "mma" ? writes : [])]) live.add(id);
    if (takesWhole(stmt)) tell(live);
  }
  return live;
}

/** Does a statement need all elements of its operands before it has any of its result? */
export function takesWhole({ kind }: Stmt): boolean {
  switch (kind) {
    case "mma":
    case "mma-parts":
    case "cumsum":
    case "solve":
    case "invert":
    case "rotate-half":
    case "wait":
    case "loop":
      return true;
    case "load":
    case "store":
    case "copy-async":
    case "copy":
    case "map":
    case "reduce":
    case "fold":
    case "join":
    case "barrier":
    case "signal":
    case "await":
      return false;
  }
}
