/**
 * Pipeline-copies: what a loop's next turn needs is copied while this one computes.
 *
 *   loop t below T step 64 {              loop t below T step 64 {
 *     copy-async k = k_param[t, 0]          copy-async first k = k_param[t, 0]
 *     wait 0                                wait 0
 *     mma S += k^T @ v                =>    copy-async ahead k_next = k_param[t + 64, 0]
 *   }                                       mma S += k^T @ v
 *                                           swap k k_next
 *                                         }
 *
 * Each storage that is copied to has a second one, as far as the shared memory goes, first come first
 * served. Needs: place-operands. Guarantees: the same values; at a `wait` at the head of a loop nothing
 * is under way that a later turn does not need.
 */
import type { Pass } from "../../support/pass.ts";
import { writesOf } from "../accesses.ts";
import type {
  CopyAsync,
  Index,
  Kernel,
  Loop,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  View,
} from "../ir.ts";

export interface SharedMemory {
  readonly limitBytes: number;
  readonly bytesOf: (storage: Storage) => number;
}

export const pipelineCopies = (memory: SharedMemory): Pass<TileProgram> => ({
  name: "pipeline-copies",
  summary: "copy what the next turn of a loop needs while this one computes",
  run: (program) => {
    const kernels = program.kernels.map((kernel) => pipelined(kernel, memory));
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  },
});

function pipelined(kernel: Kernel, { limitBytes, bytesOf }: SharedMemory): Kernel {
  const storages = [...kernel.storages];
  const shared = storages.filter(({ memory }) => memory === "shared");
  let used = shared.reduce((sum, storage) => sum + bytesOf(storage), 0);

  /** A second storage like this one, or null where there is no room for it. */
  const second = (id: StorageId): StorageId | null => {
    const first = storages[id]!;
    if (used + bytesOf(first) > limitBytes) return null;
    used += bytesOf(first);
    const twin = { ...first, id: storages.length as StorageId, name: `${first.name}_next` };
    storages.push(twin);
    return twin.id;
  };

  const inLoop = (loop: Loop): Loop => {
    const { body, variable, step, reverse } = loop;
    const wait = body.findIndex(({ kind }) => kind === "wait");
    const isAhead = (stmt: Stmt): stmt is CopyAsync =>
      stmt.kind === "copy-async" &&
      stmt.turns === "all" &&
      placeOf(stmt.view).base === variable &&
      writers(body, stmt.dst) === 1;
    const firsts: Stmt[] = [];
    const aheads: Stmt[] = [];
    const swaps: Stmt[] = [];
    for (const stmt of body.slice(0, Math.max(wait, 0))) {
      const twin = isAhead(stmt) ? second(stmt.dst) : null;
      if (!isAhead(stmt) || twin === null) {
        firsts.push(stmt);
        continue;
      }
      const { dst, view, note } = stmt;
      firsts.push({ ...stmt, turns: "first" });
      aheads.push({
        ...stmt,
        turns: "ahead",
        dst: twin,
        view: shifted(view, reverse ? -step : step),
      });
      swaps.push({ kind: "swap", a: dst, b: twin, note });
    }
    if (swaps.length === 0) return { ...loop, body: inBody(body) };
    const rest = inBody(body.slice(wait + 1));
    return { ...loop, body: [...firsts, body[wait]!, ...aheads, ...rest, ...swaps] };
  };

  const inBody = (stmts: readonly Stmt[]): Stmt[] =>
    stmts.map((stmt) => (stmt.kind === "loop" ? inLoop(stmt) : stmt));

  const body = inBody(kernel.body);
  return storages.length === kernel.storages.length ? kernel : { ...kernel, storages, body };
}

/** Where along the tokens a view lies. */
function placeOf({ token, row }: View): Index {
  return token ?? row;
}

function shifted(view: View, by: number): View {
  const { base, offset } = placeOf(view);
  const place = { base, offset: offset + by };
  return view.token === undefined ? { ...view, row: place } : { ...view, token: place };
}

function writers(body: readonly Stmt[], id: StorageId): number {
  return body.filter((stmt) => writesOf(stmt).includes(id)).length;
}
