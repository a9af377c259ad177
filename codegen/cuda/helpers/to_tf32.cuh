// A number whose first eleven bits, all that a product in tf32 takes, are the nearest to it.
__device__ __forceinline__ unsigned to_tf32(float x) {
  return __float_as_uint(x) + 0x1000u;
}
