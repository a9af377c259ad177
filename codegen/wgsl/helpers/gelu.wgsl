// x / 2 (1 + erf(x / sqrt 2)); erf after Abramowitz and Stegun 7.1.26 within 1.5e-7.
fn gelu(x: f32) -> f32 {
  let a = abs(x) * 0.70710678;
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let tail = 0.5 * p * exp(-a * a);
  return x * select(tail, 1.0 - tail, x >= 0.0);
}
