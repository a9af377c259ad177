/**
 * What every function of a `map` is in CUDA C++. Single-precision functions of CUDA's device library
 * where there is one (1 to 4 ulp, no local memory); a helper file where one expression would repeat
 * its argument, lose digits, or spill: `sinf` and `cosf` keep a table in local memory for large angles.
 */
import type { MapFn } from "../../compiler/tensor/ir.ts";
import { bare, infix } from "../c-like/text.ts";
import addDownColumns from "./helpers/add_down_columns.cuh";
import approxCos from "./helpers/approx_cos.cuh";
import approxElu from "./helpers/approx_elu.cuh";
import approxExp from "./helpers/approx_exp.cuh";
import approxExpm1 from "./helpers/approx_expm1.cuh";
import approxQuotient from "./helpers/approx_quotient.cuh";
import approxReciprocal from "./helpers/approx_reciprocal.cuh";
import approxRoot from "./helpers/approx_root.cuh";
import approxSigmoid from "./helpers/approx_sigmoid.cuh";
import approxSilu from "./helpers/approx_silu.cuh";
import approxSin from "./helpers/approx_sin.cuh";
import approxSoftplus from "./helpers/approx_softplus.cuh";
import approxTanh from "./helpers/approx_tanh.cuh";
import arriveAt from "./helpers/arrive_at.cuh";
import beginAnew from "./helpers/begin_anew.cuh";
import bf16 from "./helpers/bf16.cuh";
import choose from "./helpers/choose.cuh";
import clearTile from "./helpers/clear_tile.cuh";
import closeCopies from "./helpers/close_copies.cuh";
import closeProducts from "./helpers/close_products.cuh";
import copyAsync from "./helpers/copy_async.cuh";
import copyTile from "./helpers/copy_tile.cuh";
import copyWordAsync from "./helpers/copy_word_async.cuh";
import elu from "./helpers/elu.cuh";
import f16 from "./helpers/f16.cuh";
import finiteBf16 from "./helpers/finite_bf16.cuh";
import fromBf16 from "./helpers/from_bf16.cuh";
import fromF16 from "./helpers/from_f16.cuh";
import gelu from "./helpers/gelu.cuh";
import holdRegisters from "./helpers/hold_registers.cuh";
import invertTriangle from "./helpers/invert_triangle.cuh";
import joinParts from "./helpers/join_parts.cuh";
import loadMatrices from "./helpers/load_matrices.cuh";
import loadMatricesTransposed from "./helpers/load_matrices_transposed.cuh";
import meetAt from "./helpers/meet_at.cuh";
import multiplyByWarpgroups from "./helpers/multiply_by_warpgroups.cuh";
import multiplyByWarps from "./helpers/multiply_by_warps.cuh";
import multiplyPiece from "./helpers/multiply_piece.cuh";
import multiplyTf32 from "./helpers/multiply_tf32.cuh";
import multiplyToParts from "./helpers/multiply_to_parts.cuh";
import openArrival from "./helpers/open_arrival.cuh";
import openArrivals from "./helpers/open_arrivals.cuh";
import openProducts from "./helpers/open_products.cuh";
import ownHead from "./helpers/own_head.cuh";
import packBf16 from "./helpers/pack_bf16.cuh";
import packF16 from "./helpers/pack_f16.cuh";
import packRestBf16 from "./helpers/pack_rest_bf16.cuh";
import packRestF16 from "./helpers/pack_rest_f16.cuh";
import placeInTensor from "./helpers/place_in_tensor.cuh";
import placeInTile from "./helpers/place_in_tile.cuh";
import sequenceOf from "./helpers/sequence_of.cuh";
import sharedAddress from "./helpers/shared_address.cuh";
import showToProducts from "./helpers/show_to_products.cuh";
import sigmoid from "./helpers/sigmoid.cuh";
import silu from "./helpers/silu.cuh";
import softplus from "./helpers/softplus.cuh";
import square from "./helpers/square.cuh";
import storeMatrices from "./helpers/store_matrices.cuh";
import storePair from "./helpers/store_pair.cuh";
import storeWords from "./helpers/store_words.cuh";
import sumDownColumns from "./helpers/sum_down_columns.cuh";
import sumDownTile from "./helpers/sum_down_tile.cuh";
import tensorMap from "./helpers/tensor_map.cuh";
import tileDescriptor from "./helpers/tile_descriptor.cuh";
import toBf16 from "./helpers/to_bf16.cuh";
import toF16 from "./helpers/to_f16.cuh";
import toTf32 from "./helpers/to_tf32.cuh";
import trimTile from "./helpers/trim_tile.cuh";
import turnAfter from "./helpers/turn_after.cuh";
import turnInQuad from "./helpers/turn_in_quad.cuh";
import turnMatrix from "./helpers/turn_matrix.cuh";
import turnedSine from "./helpers/turned_sine.cuh";
import waitForCopies from "./helpers/wait_for_copies.cuh";
import waitForTiles from "./helpers/wait_for_tiles.cuh";
import withinTurn from "./helpers/within_turn.cuh";

/** Functions that are files; a kernel's text starts with those it calls. */
export const helpers = {
  add_down_columns: addDownColumns,
  approx_cos: approxCos,
  approx_elu: approxElu,
  approx_exp: approxExp,
  approx_expm1: approxExpm1,
  approx_quotient: approxQuotient,
  approx_reciprocal: approxReciprocal,
  approx_root: approxRoot,
  approx_sigmoid: approxSigmoid,
  approx_silu: approxSilu,
  approx_sin: approxSin,
  approx_softplus: approxSoftplus,
  approx_tanh: approxTanh,
  arrive_at: arriveAt,
  begin_anew: beginAnew,
  bf16,
  choose,
  clear_tile: clearTile,
  close_copies: closeCopies,
  close_products: closeProducts,
  copy_async: copyAsync,
  copy_tile: copyTile,
  copy_word_async: copyWordAsync,
  elu,
  f16,
  finite_bf16: finiteBf16,
  from_bf16: fromBf16,
  from_f16: fromF16,
  gelu,
  hold_registers: holdRegisters,
  invert_triangle: invertTriangle,
  join_parts: joinParts,
  load_matrices: loadMatrices,
  load_matrices_transposed: loadMatricesTransposed,
  meet_at: meetAt,
  multiply_by_warpgroups: multiplyByWarpgroups,
  multiply_by_warps: multiplyByWarps,
  multiply_piece: multiplyPiece,
  multiply_tf32: multiplyTf32,
  multiply_to_parts: multiplyToParts,
  open_arrival: openArrival,
  open_arrivals: openArrivals,
  open_products: openProducts,
  own_head: ownHead,
  pack_bf16: packBf16,
  pack_f16: packF16,
  pack_rest_bf16: packRestBf16,
  pack_rest_f16: packRestF16,
  place_in_tensor: placeInTensor,
  place_in_tile: placeInTile,
  sequence_of: sequenceOf,
  shared_address: sharedAddress,
  show_to_products: showToProducts,
  sigmoid,
  silu,
  softplus,
  square,
  store_matrices: storeMatrices,
  store_pair: storePair,
  store_words: storeWords,
  sum_down_columns: sumDownColumns,
  sum_down_tile: sumDownTile,
  tensor_map: tensorMap,
  tile_descriptor: tileDescriptor,
  to_bf16: toBf16,
  to_f16: toF16,
  to_tf32: toTf32,
  trim_tile: trimTile,
  turn_after: turnAfter,
  turn_in_quad: turnInQuad,
  turn_matrix: turnMatrix,
  turned_sine: turnedSine,
  wait_for_copies: waitForCopies,
  wait_for_tiles: waitForTiles,
  within_turn: withinTurn,
} as const;
export type Helper = keyof typeof helpers | WideProduct;

/** `wgmma` of 64 rows and so many columns: an instruction, and a function, for each width. */
export type WideProduct = `multiply_64x${number}_${"bf16" | "f16"}`;

/** The text of helpers and of those they call, each behind what it calls. */
export function helperTexts(used: Iterable<Helper>): string[] {
  const texts = new Map<Helper, string>();
  const add = (name: Helper) => {
    if (texts.has(name)) return;
    const [, width, number] = /^multiply_64x(\d+)_(b?f16)$/.exec(name) ?? [];
    const text =
      width === undefined
        ? helpers[name as keyof typeof helpers].trimEnd()
        : wideProduct(Number(width), number!);
    const code = text.replace(/\/\/.*/g, "");
    for (const other of Object.keys(helpers) as (keyof typeof helpers)[]) {
      if (other !== name && new RegExp(`\\b${other}\\b`).test(code)) add(other);
    }
    texts.set(name, text);
  };
  // Overloads stand before the template that chooses among them.
  const rank = (name: Helper) => (name.startsWith("multiply_64x") ? 0 : 1);
  for (const name of [...used].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))) add(name);
  return [...texts.values()];
}

/** [64, width] += [64, 16] @ [16, width] over a warpgroup, rows as in layout.ts; see PTX ISA 8.7, 9.7.15. */
function wideProduct(width: number, number: string): string {
  const blocks = Array.from({ length: width / 8 }, (_, j) => j);
  const sums = blocks.flatMap((j) =>
    ["low", "high"].flatMap((half) => [`${half}[${2 * j}]`, `${half}[${2 * j + 1}]`]),
  );
  const n = sums.length;
  const list = sums.map((_, i) => `%${i}`).join(", ");
  const held = width / 4;
  return [
    `// [64, ${width}] += [64, 16] @ [16, ${width}] over four warps, factors in ${number}, sums in float32; the product alone without \`add\`.`,
    "template <bool turn_left, bool turn_right>",
    `__device__ __forceinline__ void multiply_64(${number}, float (&low)[${held}], float (&high)[${held}],`,
    "                                            unsigned long long left, unsigned long long right, bool add) {",
    "#ifdef __CUDA_ARCH_FEAT_SM90_ALL",
    `  asm volatile("{ .reg .pred add; setp.ne.b32 add, %${n + 4}, 0; "`,
    `               "wgmma.mma_async.sync.aligned.m64n${width}k16.f32.${number}.${number} {${list}}, "`,
    `               "%${n}, %${n + 1}, add, 1, 1, %${n + 2}, %${n + 3}; }"`,
    `               : ${sums.map((sum) => `"+f"(${sum})`).join(", ")}`,
    '               : "l"(left), "l"(right), "n"(turn_left), "n"(turn_right), "r"((int)add));',
    "#endif",
    "}",
  ].join("\n");
}

/** Told which helper the text calls. */
export type Use = (name: Helper) => Helper;

type Write = (args: readonly string[], use: Use) => string;

/** Tests are written by the walker, as conditions. */
type Test = "lt" | "le" | "gt" | "ge" | "eq" | "select";

const call =
  (name: string): Write =>
  (args) =>
    `${name}(${args.map(bare).join(", ")})`;
const helper =
  (name: Helper): Write =>
  (args, use) =>
    call(use(name))(args, use);
const arithmetic =
  (fn: "add" | "sub" | "mul" | "div"): Write =>
  (args) =>
    infix(fn, args)!;

const ops = {
  neg: ([x]) => (x!.startsWith("-") ? `-(${x})` : `-${x}`),
  exp: call("expf"),
  log: call("logf"),
  sqrt: call("sqrtf"),
  rsqrt: call("rsqrtf"),
  abs: call("fabsf"),
  sin: ([x], use) => `${use("turned_sine")}(${bare(x!)}, 0)`,
  cos: ([x], use) => `${use("turned_sine")}(${bare(x!)}, 1)`,
  tanh: call("tanhf"),
  floor: call("floorf"),
  // Factors in bf16 are those of place-operands; products without tensor cores have others.
  as_bf16: ([x]) => x!,
  sigmoid: helper("sigmoid"),
  silu: helper("silu"),
  softplus: helper("softplus"),
  elu: helper("elu"),
  gelu: helper("gelu"),
  square: helper("square"),
  relu: ([x]) => `fmaxf(${bare(x!)}, 0.0f)`,
  recip: ([x]) => `(1.0f / ${x})`,
  add: arithmetic("add"),
  sub: arithmetic("sub"),
  mul: arithmetic("mul"),
  div: arithmetic("div"),
  max: call("fmaxf"),
  min: call("fminf"),
  pow: call("powf"),
} satisfies Record<Exclude<MapFn, Test>, Write>;

/**
 * The same by the hardware's own instructions, straight through: off by 4e-6 of the value or, for sine and cosine, of 1, which 16 bits round
 * away, where exact division and CUDA's library take ten times as many instructions and branch for rare arguments.
 */
const approximations: Partial<Record<MapFn, Write>> = {
  exp: helper("approx_exp"),
  sqrt: helper("approx_root"),
  sin: helper("approx_sin"),
  cos: helper("approx_cos"),
  tanh: helper("approx_tanh"),
  sigmoid: helper("approx_sigmoid"),
  silu: helper("approx_silu"),
  softplus: helper("approx_softplus"),
  elu: helper("approx_elu"),
  recip: helper("approx_reciprocal"),
  div: helper("approx_quotient"),
};

/** A function applied to its arguments' text; an infix one is in brackets. `approximate`: for kernels in 16 bits. */
export function callText(
  fn: MapFn,
  args: readonly string[],
  use: Use,
  approximate: boolean,
): string {
  const write = (approximate && approximations[fn]) || ops[fn as keyof typeof ops];
  return write(args, use);
}

/** A float literal that reads back as the nearest float. */
export function floatText(value: number): string {
  const nearest = Math.fround(value);
  if (Number.isNaN(nearest)) return "__int_as_float(0x7fffffff)";
  if (!Number.isFinite(nearest)) {
    return `__int_as_float(0x${nearest > 0 ? "7f800000" : "ff800000"})`;
  }
  if (nearest === 0) return Object.is(nearest, -0) ? "-0.0f" : "0.0f";
  // Nine digits tell any two floats apart.
  const text = String(nearest === value ? value : Number(value.toPrecision(9)));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}
