// Two numbers in bf16, no less than the least finite one: zero times infinity would be no number.
__device__ __forceinline__ unsigned finite_bf16(unsigned pair) {
  unsigned bounded;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(bounded) : "r"(pair), "r"(0xff7fff7fu));
  return bounded;
}
