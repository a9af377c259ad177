// condition ? a : b with both sides computed: as a branch each element would wait for its own reads and
// functions, one after the other.
__device__ __forceinline__ float choose(bool condition, float a, float b) {
  float chosen;
  asm("slct.f32.s32 %0, %1, %2, %3;" : "=f"(chosen) : "f"(a), "f"(b), "r"(condition ? 0 : -1));
  return chosen;
}
