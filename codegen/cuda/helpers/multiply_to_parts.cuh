// Of left @ right^T what a warp's own columns add, to the warp's rows of `parts`, `stride` numbers each. Left and right are
// tiles of which the warp has all rows and `held` / 2 pairs of columns. Of the product's blocks, 16 rows by 8 columns,
// those whose bits are set.
template <unsigned blocks, int warps, int stride, int height, int width, int held>
__device__ __forceinline__ void multiply_to_parts(float* parts, const float (&left)[height][held], const float (&right)[width][held]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % warps;
  float sums[height / 2][width][4] = {};
  // A lane has two columns of eight where `mma` wants one of either half of them: any order of columns gives the same sum.
  #pragma unroll
  for (int k = 0; k < held; k += 2) {
    #pragma unroll
    for (int block = 0; block < height / 2 * width; block++) {
      if (!(blocks >> block & 1)) continue;
      const int i = block / width, j = block % width;
      float (&sum)[4] = sums[i][j];
      asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(to_tf32(left[2 * i][k])), "r"(to_tf32(left[2 * i + 1][k])), "r"(to_tf32(left[2 * i][k + 1])),
            "r"(to_tf32(left[2 * i + 1][k + 1])), "r"(to_tf32(right[j][k])), "r"(to_tf32(right[j][k + 1])));
    }
  }
  #pragma unroll
  for (int block = 0; block < height / 2 * width; block++) {
    if (!(blocks >> block & 1)) continue;
    const int i = block / width, j = block % width;
    float* const place = parts + (warp * height * 8 + i * 16 + lane / 4) * stride + j * 8 + lane % 4 * 2;
    *(float2*)place = make_float2(sums[i][j][0], sums[i][j][1]);
    *(float2*)(place + 8 * stride) = make_float2(sums[i][j][2], sums[i][j][3]);
  }
}
