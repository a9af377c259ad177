__device__ __forceinline__ float approx_cos(float x) {
  float cosine;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(within_turn(x)));
  return cosine;
}
