// From here on each thread of a warpgroup holds so many registers, where it was launched with so many. Hopper deals them
// out by warpgroup; elsewhere all threads have the same.
template <int registers, int launched>
__device__ __forceinline__ void hold_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if (registers > launched) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(registers));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(registers));
  }
#endif
}
