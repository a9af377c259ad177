/**
 * Stage-waits: what is needed first is waited for first; the rest arrives while that is computed with.
 *
 *   copy-async k = k_param[t, 0]           copy-async k = k_param[t, 0]
 *   copy-async S = S_param[0, 0]           copy-async last q = q_param[t, 0]
 *   copy-async q = q_param[t, 0]    =>     copy-async S = S_param[0, 0]
 *   wait 0                                 wait 1
 *   mma scores += q @ k^T                  mma scores += q @ k^T
 *   mma o += q @ S                         wait 1
 *                                          mma o += q @ S
 *
 * For kernels that have neither a second place for what they copy nor another block beside them to compute meanwhile.
 * Copies come in groups in the order of their first use, each of a size that is worth a barrier. A wait closes a group too, be
 * it empty, so that behind the first wait for n groups as many are younger at each: n - 1.
 *
 * Needs: place-operands; before insert-barriers. Guarantees: the same values; nothing is read before its copy is waited for.
 */
import type { Pass } from "../../support/pass.ts";
import { copiedAhead, readsOf } from "../accesses.ts";
import type { CopyAsync, Kernel, Stmt, Storage, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

/** What is worth a wait of its own. */
const leastBytes = 32 * 1024;

export const stageWaits = (bytesOf: (storage: Storage) => number): Pass<TileProgram> => ({
  name: "stage-waits",
  summary: "wait for copies in the order in which they are needed",
  run: onKernels((kernel) => staged(kernel, bytesOf)),
});

/** Copies that are waited for together, and the place behind the first wait where one of them is read first. */
interface Group {
  readonly copies: CopyAsync[];
  readonly use: number;
  bytes: number;
}

function staged(kernel: Kernel, bytesOf: (storage: Storage) => number): Kernel {
  // A wait is where all roles meet, whose turns are copied ahead anyway.
  if (kernel.roles !== undefined) return kernel;
  let isChanged = false;
  const inList = (stmts: readonly Stmt[]): readonly Stmt[] => {
    const inner = stmts.map((stmt) =>
      stmt.kind === "loop" ? { ...stmt, body: inList(stmt.body) } : stmt,
    );
    const at = inner.findIndex(({ kind }) => kind === "wait");
    const before = inner.slice(0, Math.max(at, 0));
    const behind = inner.slice(at + 1);
    const isCopy = (stmt: Stmt): stmt is CopyAsync => stmt.kind === "copy-async";
    const useOf = ({ dst }: CopyAsync) => {
      const use = behind.findIndex((stmt) => readsOf(stmt).includes(dst));
      return use < 0 ? behind.length : use;
    };
    const groups: Group[] = [];
    const uses = before.filter(isCopy).map((copy) => ({ copy, use: useOf(copy) }));
    for (const { copy, use } of uses.sort((a, b) => a.use - b.use)) {
      const last = groups.at(-1);
      const bytes = bytesOf(kernel.storages[copy.dst]!);
      if (last === undefined || (last.bytes >= leastBytes && use > last.use)) {
        groups.push({ copies: [copy], use, bytes });
      } else {
        last.copies.push(copy);
        last.bytes += bytes;
      }
    }
    // What comes a turn ahead is there when it is asked for.
    if (groups.length < 2 || copiedAhead(inner).length > 0) return inner;
    isChanged = true;
    const closed = groups.flatMap(({ copies }, n) =>
      copies.map((copy, i) =>
        i === copies.length - 1 && n < groups.length - 1
          ? { ...copy, isLast: true as const }
          : copy,
      ),
    );
    const wait = { ...inner[at]!, pending: groups.length - 1 } as Stmt;
    const parts = groups.flatMap(({ use }, n) => [
      { ...wait },
      ...behind.slice(n === 0 ? 0 : use, groups[n + 1]?.use ?? behind.length),
    ]);
    return [...before.filter((stmt) => !isCopy(stmt)), ...closed, ...parts];
  };
  const body = inList(kernel.body);
  return isChanged ? { ...kernel, body } : kernel;
}
