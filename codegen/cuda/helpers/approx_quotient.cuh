// x / y, off by two ulp; 0 where 1 / y is below 2^-126.
__device__ __forceinline__ float approx_quotient(float x, float y) {
  return x * approx_reciprocal(y);
}
