// The sum of a product's parts, `rows` rows each, for a grid of warps, `down` by `across`. Of its blocks, 16 rows by 8 columns,
// those whose bits are set; zeros for the others.
template <unsigned blocks, int parts, int rows, int stride, int down, int across, int height, int width>
__device__ __forceinline__ void join_parts(float (&sums)[height][width], const float* from) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % (down * across);
  #pragma unroll
  for (int i = 0; i < height; i++) {
    #pragma unroll
    for (int j = 0; j < width / 2; j++) {
      const int row = (i / 2 * down + warp % down) * 16, col = (warp / down * (width / 2) + j) * 8;
      float2 sum = make_float2(0.0f, 0.0f);
      if (blocks >> (row / 16 * (width / 2 * across) + col / 8) & 1) {
        const float* const place = from + (row + i % 2 * 8 + lane / 4) * stride + col + lane % 4 * 2;
        #pragma unroll
        for (int part = 0; part < parts; part++) {
          const float2 more = *(const float2*)(place + part * rows * stride);
          sum.x += more.x, sum.y += more.y;
        }
      }
      sums[i][2 * j] = sum.x, sums[i][2 * j + 1] = sum.y;
    }
  }
}
