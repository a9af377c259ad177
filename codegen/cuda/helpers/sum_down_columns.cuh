// Sums down the columns of a tile whose rows a warp has, 8 lanes and all its registers for a column: from sums
// within blocks of `from` rows to those within blocks of `to`. Each step adds to one half of a block the total
// of the other (Sklansky, 1960), which stands in its last row: `own` is what is summed, where the sums leave
// out the row itself.
template <bool reverse, bool exclusive, int from, int to, int height, int width>
__device__ __forceinline__ void sum_down_columns(float (&sums)[height][width], const float (&own)[height][width]) {
  const int lane = threadIdx.x % 32, place = lane / 4;
  #pragma unroll
  for (int half = from; half < to; half *= 2) {
    if (half < 8) {
      const int edge = (place & ~(2 * half - 1)) + (reverse ? half : half - 1);
      const bool takes = reverse != ((place & half) != 0);
      #pragma unroll
      for (int i = 0; i < height; i++) {
        #pragma unroll
        for (int j = 0; j < width; j++) {
          const float total = __shfl_sync(0xffffffffu, exclusive ? sums[i][j] + own[i][j] : sums[i][j], edge * 4 + lane % 4);
          if (takes) sums[i][j] += total;
        }
      }
    } else {
      const int groups = half / 8;
      #pragma unroll
      for (int first = 0; first < height; first += 2 * groups) {
        const int edge = first + (reverse ? groups : groups - 1);
        #pragma unroll
        for (int j = 0; j < width; j++) {
          const float last = exclusive ? sums[edge][j] + own[edge][j] : sums[edge][j];
          const float total = __shfl_sync(0xffffffffu, last, (reverse ? 0 : 28) + lane % 4);
          #pragma unroll
          for (int i = 0; i < groups; i++) sums[first + (reverse ? i : groups + i)][j] += total;
        }
      }
    }
  }
}
