/** What the functions of the package take and give: plain data. */
import type { Manifest, TensorSpec } from "../../runtime/plan.ts";

/** How tensors are stored; arithmetic and states are float32. */
export type Dtype = "f32" | "f16" | "bf16";

export interface CheckOptions {
  /** The text's name in what is told of it; "input.lasp" where it has none. */
  readonly name?: string;
  /** Sizes of dims such as K and V, 1 to 65536. T, B and H are sizes of a call: they stay open. */
  readonly dims?: Readonly<Record<string, number>>;
  /** How inputs without a stated dtype, and outputs, are stored; "f32" when not given. */
  readonly dtype?: Dtype;
}

/** A target that must be loaded first: that of `laspc/cpu`. */
export interface LoadedTarget {
  readonly name: "cpu";
}

export interface CompileOptions extends CheckOptions {
  /** Which attention of the text; may be left out where there is one. */
  readonly entry?: string;
  /** What kernels are written for; "cuda" and "wgsl" when not given. The reference is always there. */
  readonly targets?: readonly ("cuda" | "wgsl" | LoadedTarget)[];
  /** The least GPU that CUDA kernels are for; "sm_90" when not given. */
  readonly architecture?: "sm_80" | "sm_86" | "sm_89" | "sm_90";
  /** Also the plan of a ring of so many devices; 1 when not given. */
  readonly devices?: number;
  /** Also the gradients of all inputs; true when not given. */
  readonly backward?: boolean;
  /** The forward keeps states for the gradient every so many tokens, a multiple of 64; null: none. */
  readonly cacheStates?: number | null;
}

export interface ExplainOptions extends CheckOptions {
  readonly entry?: string;
  /** T, to weigh products for it. */
  readonly tokens?: number;
  /** Beside which other choices of `cacheStates` are told. */
  readonly cacheStates?: number | null;
}

/** The value is there exactly where no diagnostic is an error; warnings may stand beside it. */
export type Result<T> =
  | { readonly ok: true; readonly value: T; readonly diagnostics: readonly Diagnostic[] }
  | { readonly ok: false; readonly value: null; readonly diagnostics: readonly Diagnostic[] };

/** A mistake of the text, or (codes `unsupported-*`) what cannot be compiled of it. */
export interface Diagnostic {
  /** Words with hyphens, stable: what `explainCode` takes. */
  readonly code: string;
  readonly severity: "error" | "warning";
  readonly message: string;
  /** What to write instead, where that can be said. */
  readonly help: string | null;
  /** Places of the text, the primary one first; none where it is about the whole. */
  readonly labels: readonly Label[];
}

export interface Label {
  /** What stands there: "k has type [T, K]". */
  readonly text: string;
  readonly from: Position;
  /** Behind the last character. */
  readonly to: Position;
}

export interface Position {
  /** In UTF-16 code units, from 0: an index of the string. */
  readonly offset: number;
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 code units. */
  readonly column: number;
}

/** An attention as it is called. */
export interface Signature {
  readonly name: string;
  /** Sizes of its dims; null: not given yet. */
  readonly dims: Readonly<Record<string, number | null>>;
  readonly inputs: readonly Parameter[];
  readonly outputs: readonly Parameter[];
}

export interface Parameter {
  readonly name: string;
  readonly dtype: Dtype;
  /** "token": [B, T, heads, ...]; "head": [heads, ...]; "shared": [...]; "state": [B, H, ...]. */
  readonly per: TensorSpec["per"];
  /** The dims in place of "...", as names or sizes. */
  readonly dims: readonly (string | number)[];
}

/** A compiled attention: what `laspc compile` writes into a folder, and @laspc/runtime runs. */
export interface Artifact {
  readonly name: string;
  readonly manifest: Manifest;
  /** Every file by its path in the artifact, with `manifest.json`, plans and a README. */
  readonly files: ReadonlyMap<string, string>;
  /** What passes did, and what they left alone and why. */
  readonly notes: readonly string[];
}
