// Where the turn behind the one at t begins. By an instruction of its own: the compiler would see that a turn's first copies
// and its end ask the same, whether another follows, and hold the answer in a register for as long.
template <int step>
__device__ __forceinline__ int turn_after(int t) {
  asm volatile("add.s32 %0, %0, %1;" : "+r"(t) : "n"(step));
  return t;
}
