// Which of `count` packed sequences of T tokens a chunk of `step` tokens belongs to, where each has one more than fill it whole.
__device__ __forceinline__ long long sequence_of(const int* cuts, int count, int T, int step, int chunk) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (min(max(cuts[middle], 0), T) / step + middle <= chunk) low = middle; else high = middle - 1;
  }
  return low;
}
