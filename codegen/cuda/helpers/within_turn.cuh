// An angle less whole turns, between -pi and pi: 2 pi in two parts, so that a million tokens' angles are exact.
__device__ __forceinline__ float within_turn(float x) {
  const float turns = rintf(x * 0.159154943f);
  return fmaf(turns, 1.74845553e-7f, fmaf(turns, -6.28318548f, x));
}
