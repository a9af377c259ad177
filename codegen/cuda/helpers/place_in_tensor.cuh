// A tile's first element in a tensor of [outer, heads, rows, cols].
struct place_in_tensor {
  int col, row, head, outer;
};
