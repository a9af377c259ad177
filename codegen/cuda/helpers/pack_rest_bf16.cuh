// What two floats lose as bf16, as bf16, the first's in the lower half.
__device__ __forceinline__ unsigned pack_rest_bf16(float low, float high) {
  const unsigned bits = pack_bf16(low, high);
  return pack_bf16(low - from_bf16((unsigned short)bits), high - from_bf16((unsigned short)(bits >> 16)));
}
