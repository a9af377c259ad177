// The same for four warps down, 64 rows at a time: by `wgmma` where the GPU has it (sm_90a). Its factors
// are described, not loaded: 16-bit tiles in panels of 64 columns with 128-byte rows (place_in_tile). `anew`: sums begin here; were
// they set to zero before, the compiler would put a fence of its own between, and in a branch wait for each product.
template <class Number, int depth, bool turn_left, bool turn_right, int across, bool anew, int height, int width>
__device__ __forceinline__ void multiply_by_warpgroups(float (&sums)[height][width], const unsigned char* left,
                                                       const unsigned char* right) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int rows = height / 2 * 64, cols = width * 4 * across;
  const int first_col = across == 1 ? 0 : __shfl_sync(0xffffffffu, threadIdx.x / 128 % across, 0) * (width * 4);
  open_products();
  #pragma unroll
  for (int k = 0; k < depth; k += 16) {
    const unsigned char* b = right + (turn_right ? k / 64 * cols * 128 + first_col * 128 + k % 64 * 2
                                                 : first_col / 64 * depth * 128 + first_col % 64 * 2 + k * 128);
    #pragma unroll
    for (int i = 0; i < height / 2; i++) {
      const unsigned char* a = left + (turn_left ? i * depth * 128 + k * 128 : k / 64 * rows * 128 + i * 64 * 128 + k % 64 * 2);
      multiply_64<turn_left, !turn_right>(Number(), sums[2 * i], sums[2 * i + 1], tile_descriptor(a, 0),
                                           tile_descriptor(b, depth * 128), !anew || k > 0);
    }
  }
  close_products();
  #pragma unroll
  for (int i = 0; i < height; i++) {
    #pragma unroll
    for (int j = 0; j < width; j++) asm volatile("" : "+f"(sums[i][j]) : : "memory");
  }
#else
  if constexpr (anew) {
    #pragma unroll
    for (int i = 0; i < height; i++) {
      #pragma unroll
      for (int j = 0; j < width; j++) sums[i][j] = 0.0f;
    }
  }
  multiply_by_warps<Number, depth, turn_left, turn_right, 4, across>(sums, left, right);
#endif
}
