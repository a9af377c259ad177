// Starts a copy of 4 bytes to shared memory; zero where `inside` is false, and nothing is read then.
__device__ __forceinline__ void copy_word_async(float* to, const float* from, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               : : "r"(shared_address(to)), "l"(from), "r"(inside ? 4 : 0) : "memory");
}
