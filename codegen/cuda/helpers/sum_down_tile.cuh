// The same of a tile in bf16 in shared memory, for a grid of warps, `down` by `across`: each has every down-th block of 16 rows
// and one piece of the columns.
template <int block, bool earlier_reverse, bool earlier_exclusive, bool later_reverse, bool later_exclusive, int down, int across, int height, int width>
__device__ __forceinline__ void sum_down_tile(float (&sums)[height][width], const unsigned char* tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % (down * across);
  const int first_row = warp % down * 16, first_col = warp / down * (width * 4);
  clear_tile(sums);
  #pragma unroll
  for (int from = 0; from < height; from += 2) {
    unsigned words[1][width / 2][2];
    #pragma unroll
    for (int j = 0; j < width / 2; j += 2) {
      // Two blocks of columns at once; of an odd number the last twice.
      const int second = j + 1 < width / 2 ? lane / 16 * 8 : 0;
      unsigned loaded[4];
      load_matrices_transposed(loaded, shared_address(tile + place_in_tile(height * 8 * down, first_row + from * 8 * down + lane % 16, first_col + j * 8 + second)));
      #pragma unroll
      for (int half = 0; half < 2; half++) {
        words[0][j][half] = finite_bf16(loaded[half]);
        if (j + 1 < width / 2) words[0][j + 1][half] = finite_bf16(loaded[2 + half]);
      }
    }
    add_down_columns<block, earlier_reverse, earlier_exclusive, later_reverse, later_exclusive>(sums, from, words);
  }
}
