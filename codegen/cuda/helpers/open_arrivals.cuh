// Opens the block's places for arrivals, the n-th for as many tiles at a time as the n-th number says.
template <int... tiles>
__device__ __forceinline__ void open_arrivals(unsigned long long* arrivals) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if (threadIdx.x == 0) {
    (open_arrival(arrivals++, tiles), ...);
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  }
  __syncthreads();
#endif
}
