__device__ __forceinline__ float approx_silu(float x) {
  return x * approx_sigmoid(x);
}
