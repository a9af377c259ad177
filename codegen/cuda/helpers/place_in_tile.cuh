// Byte offset of an element of a 16-bit tile: panels of 64 columns, rows of 128 bytes, and the eight
// 16-byte pieces of each row exchanged by its number, so that eight rows of one piece meet all banks.
__device__ __forceinline__ int place_in_tile(int rows, int row, int col) {
  return ((col >> 6) * rows + row) * 128 + (((col >> 3 & 7) ^ (row & 7)) << 4) + (col & 7) * 2;
}
