// sums += what 16 rows from 8 `from` on add to the sums of sum_down_columns; each row comes as `parts` numbers in bf16,
// as right factors.
template <int block, bool earlier_reverse, bool earlier_exclusive, bool later_reverse, bool later_exclusive, int parts, int height, int width>
__device__ __forceinline__ void add_down_columns(float (&sums)[height][width], int from, const unsigned (&words)[parts][width / 2][2]) {
  const int lane = threadIdx.x % 32;
  #pragma unroll
  for (int to = 0; to < height; to += 2) {
    const bool is_later_block = (to * 8 & block) != 0;
    const bool goes_back = is_later_block ? later_reverse : earlier_reverse;
    const bool meets = block < 16 ? to == from : to * 8 / block == from * 8 / block && (goes_back ? from >= to : from <= to);
    if (!meets) continue;
    unsigned ones[4];
    #pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      const int row = to * 8 + quarter % 2 * 8 + lane / 4, other = from * 8 + quarter / 2 * 8 + lane % 4 * 2;
      const bool is_later = (row & block) != 0;
      const bool reverse = is_later ? later_reverse : earlier_reverse;
      const bool exclusive = is_later ? later_exclusive : earlier_exclusive;
      ones[quarter] = 0;
      #pragma unroll
      for (int next = 0; next < 2; next++) {
        const int distance = reverse ? other + next - row : row - other - next;
        const bool counts = distance >= (exclusive ? 1 : 0) && ((row ^ (other + next)) & ~(block - 1)) == 0;
        ones[quarter] |= counts ? 0x3f80u << 16 * next : 0;
      }
    }
    #pragma unroll
    for (int part = 0; part < parts; part++) {
      #pragma unroll
      for (int j = 0; j < width / 2; j++) {
        bf16::multiply(sums[to][2 * j], sums[to][2 * j + 1], sums[to + 1][2 * j], sums[to + 1][2 * j + 1], ones,
                       words[part][j][0], words[part][j][1]);
      }
    }
  }
}
