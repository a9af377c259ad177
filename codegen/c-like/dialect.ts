/** What WGSL and CUDA C++ say differently; the walker in `walk.ts` says everything else once. */
import type { MapFn } from "../../compiler/tensor/ir.ts";
import type { Param } from "../../compiler/tile/ir.ts";

export interface Dialect {
  /** A float literal, infinities included. */
  readonly float: (value: number) => string;
  /** An integer expression as a float. */
  readonly toFloat: (text: string) => string;
  /** Between the integers that count things and those that count a buffer's elements. */
  readonly toInt: (text: string) => string;
  readonly toOffset: (text: string) => string;
  /** The head of a tensor that has `own` of them, for one of `heads`: groups share it. */
  readonly headOf: (head: string, heads: string, own: string) => string;
  /** Of two integers that are not negative. */
  readonly quotient: (a: string, b: string) => string;
  /** "offset": an integer that can count a buffer's elements. */
  readonly constant: (type: "int" | "offset" | "float", name: string, value: string) => string;
  readonly variable: (type: "float", name: string, value: string) => string;
  /** Threads' own array of floats, rows x cols. */
  readonly registers: (name: string, rows: number, cols: number) => string;
  /** for (name = from; name < to; name += step), as the line before `{`; a turn may begin with copies for the next. */
  readonly loop: (
    name: string,
    from: string,
    to: string,
    step: string,
    copiesAhead?: boolean,
  ) => string;
  /** The same downwards: name >= to. */
  readonly loopDown: (
    name: string,
    from: string,
    step: string,
    to: string,
    copiesAhead?: boolean,
  ) => string;
  /** A line before a loop with a fixed count, or null. */
  readonly unroll: string | null;
  readonly barrier: string;
  /** condition ? a : b; the condition is a boolean expression. */
  readonly choose: (condition: string, a: string, b: string) => string;
  /** The same of two floats, in an expression that is computed for each element of a tile. */
  readonly select: (condition: string, a: string, b: string) => string;
  readonly call: (fn: MapFn, args: readonly string[]) => string;
  /** Element of a buffer as a float; `index` is an integer expression. */
  readonly read: (param: Param, index: string) => string;
  /** Statement that writes a float to a buffer. */
  readonly write: (param: Param, index: string, value: string) => string;
  /** The condition under which there is a buffer to write to; null: always. */
  readonly isWanted: (param: Param) => string | null;
  /** Where a param begins in the buffer it shares with others, in elements; null: at its start. */
  readonly start: (param: Param) => string | null;
  /** Which packed sequence a chunk of `step` tokens belongs to, by its number among all; null: points are no chunks. */
  readonly sequenceOf: ((cuts: string, step: string, chunk: string) => string) | null;
  /** A run-time scalar by its name. */
  readonly scalar: (name: string) => string;
  /** Words that no name of ours may be. */
  readonly reserved: ReadonlySet<string>;
}
