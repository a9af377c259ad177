// expm1 keeps the digits that exp(x) - 1 loses near 0.
__device__ __forceinline__ float elu(float x) {
  return x > 0.0f ? x : expm1f(x);
}
