/** Words that CUDA C++17 keeps, and functions of its device library that names must not hide. */
export const reservedWords: ReadonlySet<string> = new Set(
  `alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr
  const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false
  float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or
  or_eq private protected public register reinterpret_cast return short signed sizeof static static_assert
  static_cast struct switch template this thread_local throw true try typedef typeid typename union unsigned
  using virtual void volatile wchar_t while xor xor_eq threadIdx blockIdx blockDim gridDim warpSize half
  exp log sqrt rsqrt abs sin cos tanh floor pow max min expf logf erff 
  factor factors from_f16 to_f16 from_bf16 to_bf16 B T H T_total token_offset`.split(/\s+/),
);
