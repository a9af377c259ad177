// The float that 16 bits of f16 stand for.
__device__ __forceinline__ float from_f16(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
