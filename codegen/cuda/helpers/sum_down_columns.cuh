// Sums down the columns of a tile whose rows a warp has, within blocks of `block` rows, of which every other one
// may be summed up another way: products with triangles of ones. What is summed up goes in as `parts` numbers in
// bf16 that add up to it: one where it came as such, two of 17 bits together where it did not. Sums are float32.
template <int block, int parts, bool may_be_infinite, bool earlier_reverse, bool earlier_exclusive, bool later_reverse, bool later_exclusive, int height, int width>
__device__ __forceinline__ void sum_down_columns(float (&sums)[height][width], const float (&own)[height][width]) {
  clear_tile(sums);
  #pragma unroll
  for (int from = 0; from < height; from += 2) {
    unsigned words[parts][width / 2][2];
    #pragma unroll
    for (int j = 0; j < width / 2; j++) {
      #pragma unroll
      for (int half = 0; half < 2; half++) {
        // Zero times infinity would be no number.
        float low = own[from + half][2 * j], high = own[from + half][2 * j + 1];
        if (may_be_infinite) low = fmaxf(low, -3e38f), high = fmaxf(high, -3e38f);
        #pragma unroll
        for (int part = 0; part < parts; part++) {
          const unsigned pair = pack_bf16(low, high);
          words[part][j][half] = turn_matrix(pair);
          low -= from_bf16((unsigned short)pair);
          high -= from_bf16((unsigned short)(pair >> 16));
        }
      }
    }
    add_down_columns<block, earlier_reverse, earlier_exclusive, later_reverse, later_exclusive>(sums, from, words);
  }
}
