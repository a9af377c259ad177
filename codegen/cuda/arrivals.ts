/**
 * Which tiles the copy engine of Hopper copies, and where they arrive: each wait has a place of its own in shared memory
 * (an mbarrier) for every turn that is under way, which learns of each tile that is waited for there.
 */
import { CompilerBug } from "../../compiler/support/never.ts";
import { copiedAhead } from "../../compiler/tile/accesses.ts";
import type { CopyAsync, Kernel, Param, Stmt, StorageId, Wait } from "../../compiler/tile/ir.ts";

/** Columns of one part of a tile: 128 bytes. */
const panelCols = 64;

/** Shared memory that is left for all places where tiles arrive, 8 bytes each. */
export const arrivalBytes = 128;

/** The tiles that one wait waits for. */
export interface Arrival {
  /** The first of its places in shared memory, and how many there are: one for each turn under way. */
  readonly first: number;
  readonly places: number;
  /** The copies of one turn: what is there behind the wait. */
  readonly tiles: readonly CopyAsync[];
}

/** A list of statements that waits for copies: a loop's body, or the kernel's. */
export interface Waiting {
  readonly stmts: ReadonlySet<Stmt>;
  readonly isLoop: boolean;
  /** What is copied ahead, and how many turns are under way. */
  readonly ahead: ReadonlySet<StorageId>;
  readonly places: number;
  readonly arrivals: ReadonlyMap<Wait, Arrival>;
  /** Of a loop with roles what a turn copies for itself: each role waits where it first reads of it. */
  readonly late: Arrival | null;
}

export interface Arrivals {
  readonly lists: readonly Waiting[];
  /** How many tiles arrive at a time at each place, all waits' in order. */
  readonly counts: readonly number[];
}

/** Can the engine copy it: is it a tile of whole panels, or one that ends where the buffer's rows do? */
export function isByEngine({ view, dst }: CopyAsync, kernel: Kernel): boolean {
  const param = kernel.params.find(({ name }) => name === view.param)!;
  const [rows, cols] = kernel.storages[dst]!.shape as [number, number?];
  const width = param.shape[1];
  if (cols === undefined || typeof width !== "number" || param.dtype === "f32") return false;
  // Rows begin at whole pieces of 16 bytes; a box has 256 of them at most.
  if (width % 8 !== 0 || rows > 256 || !isPlaced(param)) return false;
  const { base, offset } = view.col;
  return cols % panelCols === 0 || (base === null && offset % 8 === 0 && offset + cols >= width);
}

/** Where a tile begins is then a head, a row, and a batch or a chunk. */
function isPlaced({ per }: Param): boolean {
  return per === "token" || per === "chunk";
}

export function arrivalsOf(kernel: Kernel): Arrivals {
  const counts: number[] = [];
  const lists: Waiting[] = [];
  const issuers = ({ role }: Stmt) => (role === undefined ? (kernel.roles ?? [0]).length : 1);
  const inList = (stmts: readonly Stmt[], isLoop: boolean): void => {
    for (const stmt of stmts) if (stmt.kind === "loop") inList(stmt.body, true);
    const ahead = new Set(copiedAhead(stmts));
    const places = Math.max(1, ...[...ahead].map((id) => kernel.storages[id]!.places!));
    const placed = (tiles: readonly CopyAsync[]): Arrival => {
      const first = counts.length;
      const count = tiles.reduce((sum, tile) => sum + issuers(tile), 0);
      for (let place = 0; place < places; place++) counts.push(count);
      return { first, places, tiles };
    };
    const arrivals = new Map<Wait, Arrival>();
    const latecomers: CopyAsync[] = [];
    for (const [wait, copies] of waitedFor(stmts)) {
      const isLate = ({ dst }: CopyAsync) =>
        isLoop && kernel.roles !== undefined && !ahead.has(dst);
      const tiles = copies.filter((copy) => isByEngine(copy, kernel));
      latecomers.push(...tiles.filter(isLate));
      const early = tiles.filter((copy) => !isLate(copy));
      if (early.length > 0) arrivals.set(wait, placed(early));
    }
    const late = latecomers.length > 0 ? placed(latecomers) : null;
    if (arrivals.size === 0 && late === null && places === 1) return;
    lists.push({ stmts: new Set(stmts), isLoop, ahead, places, arrivals, late });
  };
  inList(kernel.body, false);
  if (8 * counts.length > arrivalBytes) {
    throw new CompilerBug(`arrivals: ${kernel.name} has no room for ${counts.length} places`);
  }
  return { lists, counts };
}

/** What each wait of a list waits for, of a turn's own copies; those for later turns go to the same storages. */
function waitedFor(stmts: readonly Stmt[]): Map<Wait, readonly CopyAsync[]> {
  const found = new Map<Wait, readonly CopyAsync[]>();
  const isPipelined = copiedAhead(stmts).length > 0;
  const groups: CopyAsync[][] = [];
  let open: CopyAsync[] = [];
  let done = 0;
  const close = () => {
    groups.push(open);
    open = [];
  };
  for (const stmt of stmts) {
    if (stmt.kind === "copy-async" && stmt.ahead === 0) {
      open.push(stmt);
      if (stmt.isLast && !isPipelined) close();
    }
    if (stmt.kind !== "wait") continue;
    close();
    // Of a pipeline what is under way is for other turns.
    const next = isPipelined ? groups.length : groups.length - stmt.pending;
    found.set(stmt, groups.slice(done, Math.max(next, done)).flat());
    done = Math.max(next, done);
  }
  return found;
}

/** Where a copy of a list arrives, for whichever turn it is; null: the engine does not copy it. */
export function arrivalOf(list: Waiting, { dst }: CopyAsync): Arrival | null {
  return arrivalsIn(list).find(({ tiles }) => tiles.some((tile) => tile.dst === dst)) ?? null;
}

export function arrivalsIn({ arrivals, late }: Waiting): readonly Arrival[] {
  return [...arrivals.values(), ...(late === null ? [] : [late])];
}
