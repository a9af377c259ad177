__device__ __forceinline__ float approx_silu(float x) {
  return x * approx_reciprocal(1.0f + approx_exp(-x));
}
