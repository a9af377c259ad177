// Two neighbouring floats to memory at once: what a compiler may make two writes of, half a sector each.
__device__ __forceinline__ void store_pair(float* to, float low, float high) {
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" : : "l"(to), "f"(low), "f"(high) : "memory");
}
