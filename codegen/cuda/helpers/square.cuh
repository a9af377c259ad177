__device__ __forceinline__ float square(float x) {
  return x * x;
}
