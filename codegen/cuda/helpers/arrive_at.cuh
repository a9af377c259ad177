// Counts as being at a numbered barrier of so many threads, and goes on.
template <int number, int threads>
__device__ __forceinline__ void arrive_at() {
  asm volatile("bar.arrive %0, %1;" : : "n"(number), "n"(threads) : "memory");
}
