__device__ __forceinline__ float approx_elu(float x) {
  return choose(x > 0.0f, x, approx_expm1(x));
}
