// log(1 + exp(x)) without overflow; 1 + y loses small y, which is divided out again.
fn softplus(x: f32) -> f32 {
  let y = exp(-abs(x));
  let u = 1.0 + y;
  let gained = u - 1.0;
  let tail = select(log(u) * y / gained, y, gained == 0.0);
  return max(x, 0.0) + tail;
}
