// x / y, off by two ulp.
__device__ __forceinline__ float approx_quotient(float x, float y) {
  return x * approx_reciprocal(y);
}
