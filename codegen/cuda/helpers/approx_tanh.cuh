// By e = exp(-2|x|) - 1, which is between -1 and 0.
__device__ __forceinline__ float approx_tanh(float x) {
  const float e = approx_expm1(-2.0f * fabsf(x));
  return copysignf(e * approx_reciprocal(2.0f + e), x);
}
