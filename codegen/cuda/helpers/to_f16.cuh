// The nearest f16, ties to even, as its 16 bits.
__device__ __forceinline__ unsigned short to_f16(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
