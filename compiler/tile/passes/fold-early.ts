/**
 * Fold-early: a tile that is computed to be folded is folded as soon as what it is made of is there.
 *
 *   mma matmul += v @ d_S^T                mma matmul += v @ d_S^T
 *   map d_k = mul(matmul, to_end@row)      map x = mul(matmul, k)
 *   mma d_k += scores^T @ q           =>   reduce sums = sum col x
 *   store d_k[t, 0] = d_k                  map d_k = mul(matmul, to_end@row)
 *   map x = mul(matmul, k)                 mma d_k += scores^T @ q
 *   reduce sums = sum col x                store d_k[t, 0] = d_k
 *
 * Of the tile only a vector is kept, so registers are free for what follows. What is loaded into shared memory
 * anyway, 16-bit tiles and vectors, is loaded first: nothing then waits for its place.
 * Done where the kernel then needs fewer. Guarantees: the same values, bit for bit.
 */
import type { Pass } from "../../support/pass.ts";
import { readsOf, writesOf } from "../accesses.ts";
import type { Kernel, Stmt, StorageId, TileProgram } from "../ir.ts";
import { onKernels } from "../on-kernels.ts";

/** `registersOf`: how many registers a thread needs for a kernel. */
export const foldEarly = (registersOf: (kernel: Kernel) => number): Pass<TileProgram> => ({
  name: "fold-early",
  summary: "fold tiles as soon as they can be computed, where that takes fewer registers",
  run: onKernels((kernel) => {
    const body = inOrder(loadsFirst(kernel.body, kernel), kernel);
    if (isSame(body, kernel.body)) return kernel;
    const early = { ...kernel, body };
    return registersOf(early) < registersOf(kernel) ? early : kernel;
  }),
});

/** Loads of what products read as it is, and of vectors, at the top of each list. */
function loadsFirst(stmts: readonly Stmt[], kernel: Kernel): readonly Stmt[] {
  const body = stmts.map((stmt) =>
    stmt.kind === "loop" ? { ...stmt, body: loadsFirst(stmt.body, kernel) } : stmt,
  );
  const written = body.flatMap(writesOf);
  const isFree = (stmt: Stmt): boolean => {
    if (stmt.kind !== "load" || written.filter((id) => id === stmt.dst).length > 1) return false;
    const param = kernel.params.find(({ name }) => name === stmt.view.param)!;
    const isShared = kernel.storages[stmt.dst]!.memory === "shared";
    return isShared || (param.dtype !== "f32" && param.per !== "state");
  };
  return [...body.filter(isFree), ...body.filter((stmt) => !isFree(stmt))];
}

function inOrder(stmts: readonly Stmt[], kernel: Kernel): readonly Stmt[] {
  let body: Stmt[] = stmts.map((stmt) => {
    if (stmt.kind !== "loop") return stmt;
    const inner = inOrder(stmt.body, kernel);
    return isSame(inner, stmt.body) ? stmt : { ...stmt, body: inner };
  });
  const isTile = (id: StorageId) => {
    const { memory, shape } = kernel.storages[id]!;
    return memory === "register" && shape.length === 2;
  };
  for (let at = 0; at < body.length; at++) {
    const map = body[at]!;
    if (map.kind !== "map" || !isTile(map.dst) || readsOf(map).includes(map.dst)) continue;
    let end = at + 1;
    for (let next = body[end]; next?.kind === "reduce" && next.src === map.dst; next = body[++end]);
    if (end === at + 1) continue;
    const group = body.slice(at, end);
    let to = at;
    while (to > 0 && !isTied(body[to - 1]!, group)) to--;
    if (to === at) continue;
    body = [...body.slice(0, to), ...group, ...body.slice(to, at), ...body.slice(end)];
  }
  return body;
}

/** Must a group of statements stay behind one? */
function isTied(stmt: Stmt, group: readonly Stmt[]): boolean {
  if (stmt.kind === "loop") return true;
  const [reads, writes] = [readsOf(stmt), writesOf(stmt)];
  const used = new Set([...reads, ...writes]);
  return group.some(
    (one) =>
      writesOf(one).some((id) => used.has(id)) || readsOf(one).some((id) => writes.includes(id)),
  );
}

function isSame(a: readonly Stmt[], b: readonly Stmt[]): boolean {
  return a.length === b.length && a.every((stmt, i) => stmt === b[i]);
}
