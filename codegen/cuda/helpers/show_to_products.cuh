// What this thread wrote to shared memory is, after a barrier, there for `wgmma`, which reads it past the
// usual way.
__device__ __forceinline__ void show_to_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}
