// Two 16-bit numbers share a word; these take one out of its word.
fn from_f16(word: u32, index: i32) -> f32 {
  return unpack2x16float(word)[index & 1];
}
fn to_f16(x: f32) -> u32 {
  return pack2x16float(vec2<f32>(x, 0.0)) & 0xffffu;
}
