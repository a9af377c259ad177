// The strictly lower part L of a [size, size] array in shared memory becomes (I - L)^-1 - I, the rest of its
// blocks on the diagonal zero. First blocks of 16 by substitution, a warp each; then pairs of blocks, the
// inverse of [[A, 0], [C, B]] having B^-1 C A^-1 in the corner. Float32 throughout, by so many threads in a row,
// which meet at a barrier of their own.
template <int size, int stride, int threads, int barrier>
__device__ __forceinline__ void invert_triangle(float* a) {
  const int thread = barrier == 0 ? threadIdx.x : threadIdx.x % threads, lane = thread % 32, warp = thread / 32;
  for (int block = warp; block < size / 16; block += threads / 32) {
    float* const d = a + block * 16 * (stride + 1);
    const int col = lane % 16;
    float x[16];
    #pragma unroll
    for (int row = 0; row < 16; row++) {
      float value = d[row * stride + col];
      #pragma unroll
      for (int k = 1; k < row; k++) value += d[row * stride + k] * x[k];
      x[row] = col < row ? value : 0.0f;
    }
    __syncwarp();
    #pragma unroll
    for (int row = 0; row < 16; row++) d[row * stride + col] = x[row];
  }
  meet_at<barrier, threads>();
  #pragma unroll
  for (int width = 16; width < size; width *= 2) {
    // Each thread has pieces of four columns of the corners: C + C A', then that + B' of it.
    constexpr int most = (size * size / 4 / 4 + threads - 1) / threads;
    const int pieces = size / 2 * width / 4;
    #pragma unroll
    for (int side = 0; side < 2; side++) {
      float sums[most][4];
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = thread + i * threads;
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 4), row = piece / (width / 4) % width, col = piece % (width / 4) * 4;
        const float* const corner = a + (pair * 2 + 1) * width * stride + pair * 2 * width;
        const float* const left = side == 0 ? corner + row * stride : corner + row * stride + width;
        const float* const right = side == 0 ? corner - width * stride + col : corner + col;
        #pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = corner[row * stride + col + j];
        #pragma unroll 8
        for (int k = 0; k < width; k++) {
          const float factor = left[k];
          #pragma unroll
          for (int j = 0; j < 4; j++) sums[i][j] += factor * right[k * stride + j];
        }
      }
      meet_at<barrier, threads>();
      #pragma unroll
      for (int i = 0; i < most; i++) {
        const int piece = thread + i * threads;
        if (piece >= pieces) continue;
        const int pair = piece / (width * width / 4), row = piece / (width / 4) % width, col = piece % (width / 4) * 4;
        float* const corner = a + (pair * 2 + 1) * width * stride + pair * 2 * width;
        #pragma unroll
        for (int j = 0; j < 4; j++) corner[row * stride + col + j] = sums[i][j];
      }
      meet_at<barrier, threads>();
    }
  }
}
