// max(x, 0) + log(1 + e) of e = exp(-|x|): by log(1 + e) = 2 artanh(e / (2 + e)), whose sum keeps the digits of small e.
__device__ __forceinline__ float approx_softplus(float x) {
  const float e = approx_exp(-fabsf(x));
  const float s = e * approx_reciprocal(2.0f + e), t = s * s;
  const float sum = 2.0f + t * (0.666666667f + t * (0.4f + t * (0.285714286f + t * 0.222222222f)));
  return fmaxf(x, 0.0f) + s * sum;
}
