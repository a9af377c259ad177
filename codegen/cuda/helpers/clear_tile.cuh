// Zeros in all registers of a tile.
template <int height, int width>
__device__ __forceinline__ void clear_tile(float (&tile)[height][width]) {
  #pragma unroll
  for (int i = 0; i < height; i++) {
    #pragma unroll
    for (int j = 0; j < width; j++) tile[i][j] = 0.0f;
  }
}
