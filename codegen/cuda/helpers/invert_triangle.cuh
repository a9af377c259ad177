// The strictly lower part L of a [size, size] array in shared memory becomes (I - L)^-1 - I, the rest of its
// blocks on the diagonal zero. First blocks of 16 by substitution, a warp each; then pairs of blocks, the
// inverse of [[A, 0], [C, B]] having B^-1 C A^-1 in the corner: products of float32 on tensor cores, 16 x 8 of a corner
// to a warp. By so many threads in a row, which meet at a barrier of their own.
template <int size, int stride, int threads, int barrier>
__device__ __forceinline__ void invert_triangle(float* a) {
  const int thread = threadIdx.x % threads, lane = thread % 32, warp = thread / 32;
  for (int block = warp; block < size / 16; block += threads / 32) {
    float* const d = a + block * 16 * (stride + 1);
    const int col = lane % 16;
    float x[16];
    #pragma unroll
    for (int row = 0; row < 16; row++) {
      float value = d[row * stride + col];
      #pragma unroll
      for (int k = 0; k < row; k += 4) {
        const float4 four = *(const float4*)(d + row * stride + k);
        if (k > 0) value += four.x * x[k];
        if (k + 1 < row) value += four.y * x[k + 1];
        if (k + 2 < row) value += four.z * x[k + 2];
        if (k + 3 < row) value += four.w * x[k + 3];
      }
      x[row] = col < row ? value : 0.0f;
    }
    __syncwarp();
    #pragma unroll
    for (int row = 0; row < 16; row++) d[row * stride + col] = x[row];
  }
  meet_at<barrier, threads>();
  const int far = lane / 4, near = lane % 4;
  #pragma unroll
  for (int width = 16; width < size; width *= 2) {
    // C + C A', then that + B' of it; a factor's own triangle ends the sum.
    // With one block there are no pairs, but an array of nothing is none.
    constexpr int most = size == 16 ? 1 : (size / 2 * size / 2 / 128 + threads / 32 - 1) / (threads / 32);
    const int pieces = size / 2 * width / 128;
    #pragma unroll
    for (int side = 0; side < 2; side++) {
      float sums[most][4];
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = warp + i * (threads / 32);
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 128), row = piece / (width / 8) % (width / 16) * 16, col = piece % (width / 8) * 8;
        const float* const corner = a + (pair * 2 + 1) * width * stride + pair * 2 * width;
        const float* const left = side == 0 ? corner : corner + width;
        const float* const right = side == 0 ? corner - width * stride : corner;
        const float* const own = corner + (row + far) * stride + col + near * 2;
        sums[i][0] = own[0], sums[i][1] = own[1], sums[i][2] = own[8 * stride], sums[i][3] = own[8 * stride + 1];
        #pragma unroll
        for (int k = 0; k < width; k += 8) {
          if (side == 0 ? k < col : k >= row + 16) continue;
          const float* const x = left + (row + far) * stride + k + near;
          const float* const y = right + (k + near) * stride + col + far;
          const float down[4] = {x[0], x[8 * stride], x[4], x[8 * stride + 4]}, across[2] = {y[0], y[4 * stride]};
          multiply_tf32(sums[i], down, across);
        }
      }
      meet_at<barrier, threads>();
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = warp + i * (threads / 32);
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 128), row = piece / (width / 8) % (width / 16) * 16, col = piece % (width / 8) * 8;
        float* const own = a + ((pair * 2 + 1) * width + row + far) * stride + pair * 2 * width + col + near * 2;
        own[0] = sums[i][0], own[1] = sums[i][1], own[8 * stride] = sums[i][2], own[8 * stride + 1] = sums[i][3];
      }
      meet_at<barrier, threads>();
    }
  }
}
