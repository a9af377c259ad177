// The strictly lower part L of a [size, size] array in shared memory becomes (I - L)^-1 - I, the rest of its
// blocks on the diagonal zero. First blocks of 16 by substitution, two beside each other in a warp; then pairs of blocks, the
// inverse of [[A, 0], [C, B]] having B^-1 C A^-1 in the corner: products of float32 on tensor cores, 16 x 8 of a corner
// to a warp, but the first by the warp whose blocks they are. By so many threads in a row, which meet at a barrier of their own.
// With rows eight banks apart, four of them with four pairs of neighbours, as half a warp has of a product, meet all banks.
template <int size, int stride, int threads, int barrier>
__device__ __forceinline__ void invert_triangle(float* a) {
  constexpr int warps = threads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x % threads / 32;
  const int own = lane / 4 * stride + lane % 4 * 2;
  for (int pair = warp; pair < (size + 31) / 32; pair += warps) {
    const int block = size == 16 ? 0 : pair * 2 + lane / 16, col = lane % 16;
    float* const d = a + block * 16 * (stride + 1);
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
    if (size == 16) continue;
    __syncwarp();
    float* const corner = a + (pair * 2 + 1) * 16 * stride + pair * 32;
    #pragma unroll
    for (int side = 0; side < 2; side++) {
      float sums[2][4];
      #pragma unroll
      for (int i = 0; i < 2; i++) {
        const float* const from = corner + own + i * 8;
        sums[i][0] = from[0], sums[i][1] = from[1], sums[i][2] = from[8 * stride], sums[i][3] = from[8 * stride + 1];
        if (side == 0) multiply_piece<stride>(sums[i], corner, corner - 16 * stride, 0, i * 8, 16, i * 8, 16);
        else multiply_piece<stride>(sums[i], corner + 16, corner, 0, i * 8, 16, 0, 16);
      }
      __syncwarp();
      #pragma unroll
      for (int i = 0; i < 2; i++) {
        float* const to = corner + own + i * 8;
        to[0] = sums[i][0], to[1] = sums[i][1], to[8 * stride] = sums[i][2], to[8 * stride + 1] = sums[i][3];
      }
      __syncwarp();
    }
  }
  meet_at<barrier, threads>();
  #pragma unroll
  for (int width = 32; width < size; width *= 2) {
    // C + C A', then that + B' of it; a factor's own triangle ends the sum.
    // With one pair there are no pieces, but an array of nothing is none.
    constexpr int most = size <= 32 ? 1 : (size / 2 * size / 2 / 128 + warps - 1) / warps;
    const int pieces = size / 2 * width / 128;
    #pragma unroll
    for (int side = 0; side < 2; side++) {
      float sums[most][4];
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = warp + i * warps;
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 128), row = piece / (width / 8) % (width / 16) * 16, col = piece % (width / 8) * 8;
        const float* const corner = a + (pair * 2 + 1) * width * stride + pair * 2 * width;
        const float* const from = corner + row * stride + col + own;
        sums[i][0] = from[0], sums[i][1] = from[1], sums[i][2] = from[8 * stride], sums[i][3] = from[8 * stride + 1];
        if (side == 0) multiply_piece<stride>(sums[i], corner, corner - width * stride, row, col, width, col, width);
        else multiply_piece<stride>(sums[i], corner + width, corner, row, col, width, 0, row + 16);
      }
      meet_at<barrier, threads>();
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = warp + i * warps;
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 128), row = piece / (width / 8) % (width / 16) * 16, col = piece % (width / 8) * 8;
        float* const to = a + ((pair * 2 + 1) * width + row) * stride + pair * 2 * width + col + own;
        to[0] = sums[i][0], to[1] = sums[i][1], to[8 * stride] = sums[i][2], to[8 * stride + 1] = sums[i][3];
      }
      meet_at<barrier, threads>();
    }
  }
}
