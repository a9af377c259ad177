// Of a tensor with `own` heads, which groups of the others share, the one of a head. Mostly there are as many: a
// division costs as much as ten products.
__device__ __forceinline__ long long own_head(long long head, unsigned heads, unsigned own) {
  return own == heads ? head : (unsigned)head / (heads / own);
}
