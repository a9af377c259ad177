// A block of 16 x 16 numbers of a warp, in pairs as a product leaves them, into a 16-bit tile whose rows and columns
// from (row, col) on it is: words of the upper left, lower left, upper right and lower right quarter.
__device__ __forceinline__ void store_matrices(unsigned char* tile, int rows, int row, int col, unsigned a, unsigned b,
                                               unsigned c, unsigned d) {
  const int lane = threadIdx.x % 32;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const unsigned address = shared_address(tile + place_in_tile(rows, row + lane % 16, col + lane / 16 * 8));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               : : "r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
#else
  const int at = row + lane / 4, from = col + lane % 4 * 2;
  *(unsigned*)(tile + place_in_tile(rows, at, from)) = a;
  *(unsigned*)(tile + place_in_tile(rows, at + 8, from)) = b;
  *(unsigned*)(tile + place_in_tile(rows, at, from + 8)) = c;
  *(unsigned*)(tile + place_in_tile(rows, at + 8, from + 8)) = d;
#endif
}
