// exp overflows to infinity for very negative x, and the quotient is then 0, as it should be.
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
