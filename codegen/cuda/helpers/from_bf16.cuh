// The float that 16 bits of bf16 stand for: its upper half.
__device__ __forceinline__ float from_bf16(unsigned short bits) {
  return __uint_as_float((unsigned int)bits << 16);
}
