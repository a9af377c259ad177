// Four lanes with four words each, turned: lane c has word c of each of them, in their order.
__device__ __forceinline__ void turn_in_quad(unsigned (&words)[4]) {
  const int lane = threadIdx.x % 4;
  #pragma unroll
  for (int far = 1; far <= 2; far *= 2) {
    const bool isHigh = lane & far;
    #pragma unroll
    for (int i = 0; i < 2; i++) {
      const int low = far == 1 ? 2 * i : i, high = low + far;
      const unsigned other = __shfl_xor_sync(0xffffffffu, isHigh ? words[low] : words[high], far);
      if (isHigh) words[low] = other; else words[high] = other;
    }
  }
}
