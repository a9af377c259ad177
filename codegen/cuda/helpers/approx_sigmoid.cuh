// e^-x overflows to infinity for very negative x, and its reciprocal is then 0, as it should be.
__device__ __forceinline__ float approx_sigmoid(float x) {
  return approx_reciprocal(1.0f + approx_exp(-x));
}
