// The square root, off by one ulp.
__device__ __forceinline__ float approx_root(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}
