// Starts a copy of rows of 16-bit numbers from a tensor to a tile, of which `width` columns lie in the tensor. One thread asks the copy
// engine, whose parts are 64 columns wide, and which puts zeros where the tensor ends; `arrival` learns when all is
// there. Before Hopper each thread copies pieces of 16 bytes, and zeros from row `left` on.
template <int rows, int cols, int width, int threads>
__device__ __forceinline__ void copy_tile(unsigned char* tile, unsigned long long* arrival, const tensor_map& map,
                                          place_in_tensor at, const unsigned short* from, long long stride, int left) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int panels = (cols + 63) / 64;
  if (threadIdx.x % threads == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 : : "r"(shared_address(arrival)), "r"(panels * rows * 128) : "memory");
#pragma unroll
    for (int panel = 0; panel < panels; panel++) {
      asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                   : : "r"(shared_address(tile + panel * rows * 128)), "l"(&map), "r"(shared_address(arrival)),
                     "r"(at.col + panel * 64), "r"(at.row), "r"(at.head), "r"(at.outer) : "memory");
    }
  }
#else
  constexpr int pieces = cols / 8;
#pragma unroll
  for (int piece = threadIdx.x % threads; piece < rows * pieces; piece += threads) {
    const int row = piece / pieces;
    const int col = piece % pieces * 8;
    const bool inside = row < left && col < width;
    copy_async(shared_address(tile + place_in_tile(rows, row, col)), from + row * stride + col, inside);
  }
#endif
}
