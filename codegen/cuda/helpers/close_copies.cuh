// The copies started so far are one group to wait for.
__device__ __forceinline__ void close_copies() {
  asm volatile("cp.async.commit_group;" : : : "memory");
}
