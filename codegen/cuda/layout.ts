/**
 * How tiles of tensor cores lie: register tiles in the layout that matrix instructions accumulate in, and their factors.
 *
 * A tile [R, C] is cut over a grid of warps, `down` by `across`. Of its blocks of 16 rows warp w has every
 * `down`th, from w % down on; its columns are one piece of C / across, the w / down th. Inside a block of
 * 16 x 8 lane l holds the rows l / 4 and l / 4 + 8 and two neighbouring columns from l % 4 * 2 on: what
 * `mma.m16n8k16` and `wgmma.m64nNk16` give (PTX ISA 8.7, 9.7.14 and 9.7.15).
 *
 * Factors of products are shared tiles in 16 bits, in panels of 64 columns with exchanged 16-byte pieces
 * (helpers/place_in_tile.cuh): the layout of `ldmatrix` without bank conflicts, and of `wgmma`.
 */
import { hasLoop, threadsOf, touches } from "../../compiler/tile/accesses.ts";
import type { Kernel, Mma, Stmt, Storage } from "../../compiler/tile/ir.ts";
import { warpgroup } from "../../compiler/tile/passes/one-warpgroup.ts";
import { registerPressure } from "../../compiler/tile/pressure.ts";

/** How many warps share the rows and the columns of a tile, and what each has of it. */
export interface Warps {
  readonly down: number;
  readonly across: number;
  /** Blocks of 16 rows and of 8 columns of one warp. */
  readonly rowBlocks: number;
  readonly colBlocks: number;
  /** Those that have anything to do; absent: all. */
  readonly active?: ReadonlySet<number>;
}

/** The first choice is what a warpgroup of `wgmma` has: four warps down. */
const tall = [
  [4, 2],
  [2, 4],
  [1, 8],
  [8, 1],
  [4, 1],
  [2, 2],
  [1, 4],
  [2, 1],
  [1, 2],
  [1, 1],
] as const;

/** Of few rows a warp has all, if it can: it sums down them alone. */
const flat = [...tall].sort(([a], [b]) => a - b);

export function warpsOf(rows: number, cols: number, warps = 8): Warps {
  const grids = rows % 64 === 0 ? tall : flat;
  const fitting = grids.filter(
    ([down, across]) =>
      down * across <= warps && (rows / 16) % down === 0 && (cols / 8) % across === 0,
  );
  const most = Math.max(...fitting.map(([down, across]) => down * across));
  const [down, across] = fitting.find(([d, a]) => d * a === most)!;
  return { down, across, rowBlocks: rows / 16 / down, colBlocks: cols / 8 / across };
}

/** A warp's own rows are 16 in a row, or all of them; it sums them in steps that double. */
export function sumsInRegisters(rows: number, cols: number, block: number): boolean {
  return (block <= 16 || warpsOf(rows, cols).down === 1) && Number.isInteger(Math.log2(block));
}

/** Float registers of a thread for a tile among so many warps. */
export function fragmentRegisters(rows: number, cols: number, warps = 8): number {
  const { rowBlocks, colBlocks } = warpsOf(rows, cols, warps);
  return rowBlocks * colBlocks * 4;
}

/** Registers that tiles of a kernel take of each thread, at most at once. */
export function registersOfTiles(kernel: Kernel): number {
  return registerPressure(kernel, (rows, cols) =>
    fragmentRegisters(rows, cols, kernel.threads / 32),
  );
}

/** Blocks of one warpgroup that a processor has beside each other. */
export const blocksOfWarpgroups = 5;

/** Bytes of a storage in shared memory, with all its places. */
export function sharedBytesOf(storage: Storage): number {
  return placeBytesOf(storage) * (storage.places ?? 1);
}

/**
 * Shared storages by the place they have: in a small chunk's kernel, which runs once from top to bottom, a tile lies where another
 * lay that everyone is done with, so that more blocks fit a processor.
 */
export function sharedPlaces(kernel: Kernel): readonly (readonly Storage[])[] {
  const { storages, body, threads } = kernel;
  const shared = storages.filter(({ memory }) => memory === "shared");
  if (hasLoop(kernel) || threads > warpgroup) return shared.map((storage) => [storage]);
  const firstOf = ({ id }: Storage) => body.findIndex((stmt) => touches(stmt, id));
  const lastOf = ({ id }: Storage) => body.findLastIndex((stmt) => touches(stmt, id));
  /** Do all threads meet between what is done with one and what is done with the other? */
  const isBefore = (one: Storage, other: Storage): boolean => {
    const first = firstOf(other);
    const between = body.slice(lastOf(one) + 1, Math.max(first, 0));
    // What is copied to while others compute is asked for at the top.
    return body[first]?.kind !== "copy-async" && between.some(({ kind }) => kind === "barrier");
  };
  const isTile = ({ shape }: Storage) => shape.length === 2;
  const areApart = (one: Storage, other: Storage) =>
    isTile(one) && isTile(other) && (isBefore(one, other) || isBefore(other, one));
  const places: Storage[][] = [];
  for (const storage of shared) {
    const free = places.find((place) => place.every((other) => areApart(other, storage)));
    if (free === undefined) places.push([storage]);
    else free.push(storage);
  }
  // In the order of time, whatever order they were made in.
  return places.map((place) => place.toSorted((a, b) => firstOf(a) - firstOf(b)));
}

/** Bytes of one of a storage's places. */
export function placeBytesOf({ shape, dtype, pad }: Storage): number {
  const [rows = 1, cols] = shape;
  if (cols === undefined) return Math.ceil(rows / 4) * 16;
  if (dtype === "f32") return Math.ceil((rows * (cols + pad)) / 4) * 16;
  return rows * Math.ceil(cols / 64) * 128;
}

/** Is it a product for `wgmma`? A warpgroup's columns are whole panels or lie in one, unless rows of the factor are their columns. */
export function isWide(kernel: Kernel, product: Mma): boolean {
  const { rows, cols } = product.dst;
  const { down, colBlocks } = warpsOf(rows, cols, threadsOf(kernel, product) / 32);
  const width = colBlocks * 8;
  const isWhole = product.transposeRhs || width % 64 === 0 || 64 % width === 0;
  return down === 4 && rows % 64 === 0 && isWhole;
}

/**
 * Products for `wgmma` that sums begin with, each by the statement before it that sets the sums to zero: the product alone
 * takes its place.
 */
export function firstProducts(kernel: Kernel): ReadonlyMap<Stmt, Mma> {
  const found = new Map<Stmt, Mma>();
  const visit = (body: readonly Stmt[]): void => {
    body.forEach((stmt, at) => {
      if (stmt.kind === "loop") return visit(stmt.body);
      if (stmt.kind !== "map" || stmt.expr.kind !== "const" || stmt.expr.value !== 0) return;
      const { dst } = stmt;
      const next = body.slice(at + 1).find((one) => touches(one, dst));
      if (next?.kind === "mma" && next.dst.storage === dst && isWide(kernel, next)) {
        found.set(stmt, next);
      }
    });
  };
  visit(kernel.body);
  return found;
}
