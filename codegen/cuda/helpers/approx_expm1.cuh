// exp(x) - 1, near 0 by its sum: the difference loses digits there.
__device__ __forceinline__ float approx_expm1(float x) {
  const float near = x * (1.0f + x * (0.5f + x * (0.166666667f + x * 0.0416666667f)));
  return choose(fabsf(x) < 0.125f, near, approx_exp(x) - 1.0f);
}
