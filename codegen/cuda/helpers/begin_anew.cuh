// Nothing behind this begins before it. Where tiles leave few registers, the assembler would begin later sums early, and put
// numbers aside in memory for them.
__device__ __forceinline__ void begin_anew() {
  __syncwarp();
}
