/**
 * Names a kernel must not give to its own things: the words of C++17 (ISO/IEC 14882:2017, 5.11 and
 * 5.5), macros of the headers that nvcc reads unasked, CUDA's built-in variables, and what an emitted
 * kernel itself calls or takes.
 */
import { helpers } from "./ops.ts";

const words = `
  alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class
  compl const const_cast constexpr continue decltype default delete do double dynamic_cast else enum
  explicit export extern false float for friend goto if inline int long mutable namespace new noexcept
  not not_eq nullptr operator or or_eq private protected public register reinterpret_cast return short
  signed sizeof static static_assert static_cast struct switch template this thread_local throw true try
  typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
  threadIdx blockIdx blockDim gridDim warpSize
  expf logf log1pf sqrtf rsqrtf fabsf tanhf floorf fmaxf fminf powf min max make_uint4 make_float2 Number
  NULL NAN INFINITY HUGE_VAL MAXFLOAT EOF BUFSIZ RAND_MAX linux unix stdin stdout stderr errno assert alloca
  factor factors B T H T_total token_offset packed
  lane warp memory piece bits before step other sum sums turn words pair role arrivals later first_row outer group`;

export const reservedWords: ReadonlySet<string> = new Set([
  ...words.trim().split(/\s+/),
  ...Object.keys(helpers),
]);
