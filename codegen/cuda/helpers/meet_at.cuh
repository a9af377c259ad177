// Waits at a numbered barrier until so many threads are there or have arrived; 0 is the one of __syncthreads.
template <int number, int threads>
__device__ __forceinline__ void meet_at() {
  if constexpr (number == 0) __syncthreads();
  else asm volatile("bar.sync %0, %1;" : : "n"(number), "n"(threads) : "memory");
}
