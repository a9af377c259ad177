// Where a place in shared memory lies, as the copy and matrix instructions want it.
__device__ __forceinline__ unsigned shared_address(const void* place) {
  return (unsigned)__cvta_generic_to_shared(place);
}
