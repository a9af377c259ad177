// Near 0 by its sum, which keeps the digits of small angles.
__device__ __forceinline__ float approx_sin(float x) {
  const float r = within_turn(x), s = r * r;
  float sine;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(r));
  return choose(fabsf(r) < 0.125f, r * (1.0f + s * (-0.166666667f + s * 0.00833333333f)), sine);
}
