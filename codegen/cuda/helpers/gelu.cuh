// x Phi(x), Phi from the tail's side: 1 + erf(x / sqrt(2)) would lose all digits of a negative x.
__device__ __forceinline__ float gelu(float x) {
  return 0.5f * x * erfcf(-0.707106781f * x);
}
