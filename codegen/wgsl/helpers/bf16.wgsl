// Two 16-bit numbers share a word; these take one out of its word. Rounding is to nearest even.
fn from_bf16(word: u32, index: i32) -> f32 {
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (index & 1) == 1));
}
fn to_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  let rounded = bits + 0x7fffu + ((bits >> 16u) & 1u);
  return select(rounded, bits | 0x400000u, is_nan) >> 16u;
}
