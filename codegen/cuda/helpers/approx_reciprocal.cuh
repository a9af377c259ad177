// 1 / x, off by one ulp; 0 where the quotient is below 2^-126.
__device__ __forceinline__ float approx_reciprocal(float x) {
  float quotient;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(quotient) : "f"(x));
  return quotient;
}
