// An 8 x 8 matrix of 16-bit numbers of a warp, a pair of a row in each lane, transposed.
__device__ __forceinline__ unsigned turn_matrix(unsigned pair) {
  unsigned turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
}
