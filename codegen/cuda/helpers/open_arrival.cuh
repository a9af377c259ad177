// Tells a place for arrivals how many tiles arrive there at a time.
__device__ __forceinline__ void open_arrival(unsigned long long* arrival, int tiles) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(shared_address(arrival)), "r"(tiles) : "memory");
}
