/**
 * Pipeline-copies: what the next turns of a loop need is copied while this one computes.
 *
 *   shared k: bf16[64, 64]                shared k: bf16[64, 64] places 3
 *   loop t below T step 64 {              loop t below T step 64 {
 *     copy-async k = k_param[t, 0]          copy-async first last k = k_param[t, 0]
 *     wait 0                                copy-async first ahead 1 k = k_param[t + 64, 0]
 *     mma S += k^T @ v                =>    wait 1
 *   }                                       copy-async ahead 2 k = k_param[t + 128, 0]
 *                                           mma S += k^T @ v
 *                                         }
 *
 * As many turns ahead as the shared memory has room for, all copies of a loop alike; where it has not room for one turn of
 * all, those that come first. Needs: place-operands. Guarantees: the same values; at a `wait` at the head of a loop
 * nothing is under way that a later turn does not need.
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
import { onKernels } from "../on-kernels.ts";

export interface SharedMemory {
  readonly limitBytes: number;
  readonly bytesOf: (storage: Storage) => number;
}

export const pipelineCopies = (memory: SharedMemory): Pass<TileProgram> => ({
  name: "pipeline-copies",
  summary: "copy what the next turn of a loop needs while this one computes",
  run: onKernels((kernel) => pipelined(kernel, memory)),
});

/** A turn computes for about as long as memory takes to answer; more under way than this is worth nothing. */
const mostAhead = 3;

function pipelined(kernel: Kernel, { limitBytes, bytesOf }: SharedMemory): Kernel {
  const storages = [...kernel.storages];
  const shared = storages.filter(({ memory }) => memory === "shared");
  let free = limitBytes - shared.reduce((sum, storage) => sum + bytesOf(storage), 0);

  const inLoop = (loop: Loop): Loop => {
    const { body, variable, step, reverse } = loop;
    const wait = body.findIndex(({ kind }) => kind === "wait");
    const before = body.slice(0, Math.max(wait, 0));
    const canBeAhead = (stmt: Stmt): stmt is CopyAsync =>
      stmt.kind === "copy-async" &&
      stmt.turns === "all" &&
      placeOf(stmt.view).base === variable &&
      writers(body, stmt.dst) === 1;
    const sizeOf = ({ dst }: CopyAsync) => bytesOf(storages[dst]!);
    const candidates = before.filter(canBeAhead);
    const turn = candidates.reduce((sum, copy) => sum + sizeOf(copy), 0);
    // What this turn copies for itself is the youngest of all: nothing may be under way behind it.
    const areAll = before.every((stmt) => stmt.kind !== "copy-async" || canBeAhead(stmt));
    const most = areAll && turn > 0 ? Math.min(mostAhead, Math.floor(free / turn)) : 0;
    const ahead = Math.max(most, 1);
    const chosen = candidates.filter((copy) => {
      if (free < ahead * sizeOf(copy)) return false;
      free -= ahead * sizeOf(copy);
      storages[copy.dst] = { ...storages[copy.dst]!, places: ahead + 1 };
      return true;
    });
    if (chosen.length === 0) return { ...loop, body: inBody(body) };
    const by = (copy: CopyAsync, n: number): CopyAsync => ({
      ...copy,
      ahead: n,
      view: shifted(copy.view, n * (reverse ? -step : step)),
    });
    const firsts = Array.from({ length: ahead }, (_, n) =>
      before.flatMap((stmt): Stmt[] => {
        if (!canBeAhead(stmt) || !chosen.includes(stmt)) return n === 0 ? [stmt] : [];
        // Each role has groups of its own.
        const isLast = n < ahead - 1 && stmt === chosen.findLast(({ role }) => role === stmt.role);
        return [{ ...by(stmt, n), turns: "first", ...(isLast ? { isLast } : {}) }];
      }),
    ).flat();
    const waits: Stmt = { kind: "wait", pending: ahead - 1, note: body[wait]!.note };
    const aheads = chosen.map((copy) => by(copy, ahead));
    return { ...loop, body: [...firsts, waits, ...aheads, ...inBody(body.slice(wait + 1))] };
  };

  const inBody = (stmts: readonly Stmt[]): Stmt[] =>
    stmts.map((stmt) => (stmt.kind === "loop" ? inLoop(stmt) : stmt));

  const body = inBody(kernel.body);
  const same = storages.every((storage, i) => storage === kernel.storages[i]);
  return same ? kernel : { ...kernel, storages, body };
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
