// Where a tensor lies, as the copy engine wants it told: what cuTensorMapEncodeTiled writes. Nothing reads it before Hopper.
struct __align__(64) tensor_map {
  unsigned long long words[16];
};
