// sums += left @ right by a grid of warps, `down` by `across`: each has every down-th block of 16 rows and
// one piece of the columns. The factors [rows, depth] and [depth, cols] are 16-bit tiles in shared memory,
// a turned one is stored the other way round.
template <class Number, int depth, bool turn_left, bool turn_right, int down, int across, int height, int width>
__device__ __forceinline__ void multiply_by_warps(float (&sums)[height][width], const unsigned char* left,
                                                  const unsigned char* right) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % (down * across);
  constexpr int row_blocks = height / 2, col_blocks = width / 2, pairs = (col_blocks + 1) / 2;
  constexpr int rows = row_blocks * 16 * down, cols = col_blocks * 8 * across;
  // Four matrices of the right factor are loaded at once: two blocks of columns, or of one block two steps of the depth.
  constexpr bool is_odd = col_blocks % 2 == 1, is_deep = col_blocks == 1 && depth % 32 == 0;
  const int first_row = warp % down * 16, first_col = warp / down * (col_blocks * 8);
  unsigned b[pairs][4];
  #pragma unroll
  for (int k = 0; k < depth; k += 16) {
    #pragma unroll
    for (int j = 0; j < pairs; j++) {
      if (is_deep && k % 32 != 0) continue;
      // Of an odd number of blocks the last is loaded twice.
      const int second = is_odd && j == pairs - 1 ? 0 : lane / 16 * 8, deeper = is_deep ? lane / 16 * 16 : 0;
      if constexpr (turn_right) {
        const int col = first_col + j * 16 + second + lane % 8;
        load_matrices(b[j], shared_address(right + place_in_tile(cols, col, k + deeper + lane / 8 % 2 * 8)));
      } else {
        const int col = first_col + j * 16 + second;
        load_matrices_transposed(b[j], shared_address(right + place_in_tile(depth, k + deeper + lane % 16, col)));
      }
    }
    #pragma unroll
    for (int i = 0; i < row_blocks; i++) {
      const int row = first_row + i * 16 * down;
      unsigned a[4];
      if constexpr (turn_left) {
        const int from = k + lane / 16 * 8 + lane % 8;
        load_matrices_transposed(a, shared_address(left + place_in_tile(depth, from, row + lane / 8 % 2 * 8)));
      } else {
        load_matrices(a, shared_address(left + place_in_tile(rows, row + lane % 16, k + lane / 16 * 8)));
      }
      #pragma unroll
      for (int j = 0; j < col_blocks; j++) {
        const int at = is_deep ? k % 32 / 8 : j % 2 * 2;
        Number::multiply(sums[2 * i][2 * j], sums[2 * i][2 * j + 1], sums[2 * i + 1][2 * j], sums[2 * i + 1][2 * j + 1],
                         a, b[j / 2][at], b[j / 2][at + 1]);
      }
    }
  }
}
