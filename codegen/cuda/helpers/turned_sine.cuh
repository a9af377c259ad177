// sin(x + quarters pi / 2). The angle is reduced in double, exact for any token's position, to
// |r| <= pi / 4, where these Taylor sums end below half an ulp. (sinf would need local memory.)
__device__ __forceinline__ float turned_sine(float x, int quarters) {
  const double turns = rint(x * 0.63661977236758134);
  const float r = (float)fma(turns, -1.5707963267948966, (double)x);
  const float s = r * r;
  const float sine =
    r + r * s * (-1.66666667e-1f + s * (8.33333333e-3f + s * (-1.98412698e-4f + s * 2.75573192e-6f)));
  const float cosine =
    1.0f + s * (-0.5f + s * (4.16666667e-2f + s * (-1.38888889e-3f + s * (2.48015873e-5f - s * 2.75573192e-7f))));
  const int quadrant = (int)(long long)turns + quarters;
  const float y = quadrant % 2 == 0 ? sine : cosine;
  return (quadrant & 2) == 0 ? y : -y;
}
