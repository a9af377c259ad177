// What registers hold now is there for the products to come.
__device__ __forceinline__ void open_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#endif
}
