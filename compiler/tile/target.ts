/** What a target is: numbers, passes that make a tile program fit them, and a total printer. */
import type { Kernel, TileProgram } from "./ir.ts";
import type { Pressure } from "./pressure.ts";
import type { Pass } from "../support/pass.ts";
import type { Dtype, Program } from "../tensor/ir.ts";

export interface Limits {
  /** Threads that serve one grid point; 1 on a CPU. */
  readonly threads: number;
  /** Rows and columns of every tile are padded to multiples of this. */
  readonly alignRows: number;
  readonly alignCols: number;
  /** Shared memory of one grid point. */
  readonly sharedBytes: number;
  /** f32 registers per thread that tiles may take; what chunk and column block are chosen by. */
  readonly tileRegisters: number;
  /** Chunk lengths the target's kernels may use, best first. */
  readonly chunks: readonly number[];
  /** Column blocks (of V) that the grid may be split into, best first; 0: never split. */
  readonly columnBlocks: readonly number[];
  /**
   * A dim whose blocks of columns may each fold along it and write shares, which are added up: the gradients' of an attention whose
   * columns are apart (columns-apart.ts). Then there is one block in `columnBlocks`.
   */
  readonly sharedAlong?: string;
  /** Are factors of products 16-bit, and so states that are kept for them? See `factorDtype`. */
  readonly narrowFactors: boolean;
  /** What a kernel's tiles hold of a thread's registers; null: as many as all tiles have together, all the time. */
  readonly pressureOf: ((kernel: Kernel) => Pressure) | null;
}

/** The type of 16-bit factors, from those of the tensors: they lose least in their own. */
export function factorDtype(dtypes: Iterable<Dtype | "i32">): Dtype {
  const all = new Set(dtypes);
  return all.has("f16") && !all.has("bf16") ? "f16" : "bf16";
}

/** Of a 16-bit buffer that the kernel copies tiles of: how many rows a tile has, of 64 columns a part. */
export interface TensorMap {
  readonly buffer: string;
  readonly rows: number;
}

export interface EmittedKernel {
  /** File name inside the target's folder. */
  readonly file: string;
  /** Entry point. */
  readonly entry: string;
  readonly text: string;
  /** Order of the maps the entry takes, after its buffers. */
  readonly maps?: readonly TensorMap[];
  /** Order of the run-time integers the entry takes, after its buffers and maps. */
  readonly scalars: readonly string[];
  readonly sharedBytes: number;
  /** Is shared memory given at launch? Else the kernel declares it. */
  readonly isDynamic?: boolean;
  /** Of packed sequences the kernel's points over tokens are the chunks of all, of so many tokens. */
  readonly packedChunk?: number;
  /** Params that share a buffer, one behind the other, under the bundle's name. */
  readonly bundles: readonly { readonly name: string; readonly parts: readonly string[] }[];
}

export interface EmitContext {
  /** The source file's base name, for the head comment. */
  readonly source: string;
  /** Names of the passes that changed the program. */
  readonly passes: readonly string[];
}

export interface Target {
  readonly name: "wgsl" | "cuda" | "cpu";
  /**
   * Variants of the target that suit a form, the best first: the first whose kernels all fit is taken, or the last.
   * `sharedAlong`: see `Limits`; null: nothing may be.
   */
  readonly variants?: (form: Program, sharedAlong: string | null) => readonly Target[];
  readonly fits?: (kernel: Kernel) => boolean;
  /** What a form's loops go through before they become kernels. */
  readonly prepare?: readonly Pass<Program>[];
  /** Do its devices cut sequences into segments where they would be idle? */
  readonly segments?: boolean;
  readonly limits: Limits;
  readonly legalize: readonly Pass<TileProgram>[];
  /** Files that every artifact of this target holds beside its kernels, by name. */
  readonly files: Readonly<Record<string, string>>;
  /** Total: never fails on a verified, legal kernel. */
  readonly emit: (kernel: Kernel, context: EmitContext) => EmittedKernel;
}
