// Zeros from row `left` of a tile on, where the copy engine brought rows of the next packed sequence.
template <int rows, int cols, int threads>
__device__ __forceinline__ void trim_tile(unsigned char* tile, int left) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int panels = (cols + 63) / 64;
  for (int piece = left * 8 + threadIdx.x % threads; piece < rows * 8; piece += threads) {
#pragma unroll
    for (int panel = 0; panel < panels; panel++) {
      *(uint4*)(tile + (panel * rows * 8 + piece) * 16) = make_uint4(0u, 0u, 0u, 0u);
    }
  }
  show_to_products();
#endif
}
