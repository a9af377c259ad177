// What two floats lose as f16, as f16, the first's in the lower half.
__device__ __forceinline__ unsigned pack_rest_f16(float low, float high) {
  const unsigned bits = pack_f16(low, high);
  return pack_f16(low - from_f16((unsigned short)bits), high - from_f16((unsigned short)(bits >> 16)));
}
