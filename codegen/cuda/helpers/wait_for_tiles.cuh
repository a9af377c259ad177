// Waits until all tiles of a turn have arrived; turns of one place are told apart by their parity.
__device__ __forceinline__ void wait_for_tiles(unsigned long long* arrival, int parity) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  unsigned arrived = 0;
  while (arrived == 0) {
    asm volatile("{ .reg .pred all; mbarrier.try_wait.parity.shared::cta.b64 all, [%1], %2; selp.u32 %0, 1, 0, all; }"
                 : "=r"(arrived) : "r"(shared_address(arrival)), "r"(parity) : "memory");
  }
#endif
}
