// log(1 + exp(x)) without overflow: exp of a negative number only.
__device__ __forceinline__ float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}
