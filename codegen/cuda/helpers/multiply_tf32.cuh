// sums += a [16, 8] @ b [8, 8], float32 as two numbers of eleven bits each: nothing but the last bits is lost.
// Lane l has a at (l / 4, l % 4), eight rows below, four columns on, and both; b at (l % 4, l / 4) and four rows below.
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const float (&a)[4], const float (&b)[2]) {
  unsigned high_a[4], low_a[4], high_b[2], low_b[2];
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    high_a[i] = __float_as_uint(a[i]) & 0xffffe000u;
    low_a[i] = __float_as_uint(a[i] - __uint_as_float(high_a[i]));
  }
  #pragma unroll
  for (int i = 0; i < 2; i++) {
    high_b[i] = __float_as_uint(b[i]) & 0xffffe000u;
    low_b[i] = __float_as_uint(b[i] - __uint_as_float(high_b[i]));
  }
  #pragma unroll
  for (int part = 0; part < 3; part++) {
    const unsigned* const left = part == 0 ? low_a : high_a;
    const unsigned* const right = part == 1 ? low_b : high_b;
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
  }
}
