// Four words, 16 bytes in a row, to memory at once: what a compiler may make four writes of.
__device__ __forceinline__ void store_words(void* to, const unsigned (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               : : "l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}
