// condition ? a : b with both sides computed: as a branch each element would wait for its own reads and
// functions, one after the other.
__device__ __forceinline__ float choose(bool condition, float a, float b) {
  float chosen;
  asm("{ .reg .pred is; setp.ne.s32 is, %3, 0; selp.f32 %0, %1, %2, is; }"
      : "=f"(chosen) : "f"(a), "f"(b), "r"((int)condition));
  return chosen;
}
