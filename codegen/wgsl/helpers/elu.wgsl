// x, or exp(x) - 1 below zero; near zero the series keeps the digits that 1 would swallow.
fn elu(x: f32) -> f32 {
  let series = x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0))));
  let negative = select(exp(x) - 1.0, series, x > -0.06);
  return select(negative, x, x > 0.0);
}
