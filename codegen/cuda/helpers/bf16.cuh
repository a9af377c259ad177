// Factors in bf16: [16, 8] += [16, 16] @ [16, 8] over a warp, sums in float32.
struct bf16 {
  static __device__ __forceinline__ void multiply(float& d0, float& d1, float& d2, float& d3,
                                                  const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};
