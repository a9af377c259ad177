// sums += 16 x 8 of a product of float32 arrays, from a row and a column on. Of its `depth` all below `first` and from `end` on is
// zero. Of eight of it a thread takes neighbours, so that it reads two numbers at a time.
template <int stride>
__device__ __forceinline__ void multiply_piece(float (&sums)[4], const float* left, const float* right, int row, int col,
                                               int depth, int first, int end) {
  const int far = threadIdx.x % 32 / 4, near = threadIdx.x % 4 * 2;
  #pragma unroll
  for (int k = 0; k < depth; k += 8) {
    if (k < first || k >= end) continue;
    const float* const x = left + (row + far) * stride + k + near;
    const float* const y = right + (k + near) * stride + col + far;
    const float down[4] = {x[0], x[8 * stride], x[1], x[8 * stride + 1]}, across[2] = {y[0], y[stride]};
    multiply_tf32(sums, down, across);
  }
}
