// Two floats as f16, the first in the lower half.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
