// What CUDA C++ has beyond C++, for one kernel file; `software_bind` connects it with the library (cuda.cpp).
// Compiled once, and without C++'s own headers: reading those took longer than to compile most kernels.
#include <stdint.h>
#include <string.h>
extern "C" {
float copysignf(float, float), cosf(float), erfcf(float), exp2f(float), expf(float), expm1f(float), fabsf(float), floorf(float), fmaf(float, float, float), fmaxf(float, float),
    fminf(float, float), log1pf(float), logf(float), powf(float, float), rintf(float), sinf(float), sqrtf(float), tanhf(float);
double fma(double, double, double), rint(double);
}
template <class Number> static inline Number max(Number a, Number b) { return a < b ? b : a; }
template <class Number> static inline Number min(Number a, Number b) { return b < a ? b : a; }
struct Place { unsigned x, y, z; };
static const Place* software_thread; static const Place* software_block;
// What the library does for a kernel.
static struct Services {
  void (*barrier)(); const void* (*exchange)(const void*, unsigned); void (*meet)(unsigned, unsigned, bool);
  void (*copy)(void*, const void*, int, int); void (*commit)(); void (*complete)(unsigned);
  void (*openArrival)(void*, unsigned); void (*arriveExpecting)(void*, int);
  void (*copyTile)(void*, const void*, void*, int, int, int, int); void (*awaitTiles)(const void*, unsigned);
} software;
alignas(1024) static unsigned char memory[228 * 1024];
#define threadIdx (*software_thread)
#define blockIdx (*software_block)
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() software.barrier()
template <class To, class From> static To software_bits(From from) {
  To to; memcpy(&to, &from, sizeof(To)); return to;
}
static inline float __int_as_float(int bits) { return software_bits<float>(bits); }
static inline float __uint_as_float(unsigned bits) { return software_bits<float>(bits); }
static inline unsigned __float_as_uint(float x) { return software_bits<unsigned>(x); }
static inline void ptx_ex2_approx_ftz_f32(float& to, float x) { to = exp2f(x); }
static inline void ptx_rcp_approx_ftz_f32(float& to, float x) { to = 1.0f / x; }
static inline void ptx_sqrt_approx_ftz_f32(float& to, float x) { to = sqrtf(x); }
static inline void ptx_sin_approx_ftz_f32(float& to, float x) { to = sinf(x); }
static inline void ptx_cos_approx_ftz_f32(float& to, float x) { to = cosf(x); }
static inline void ptx_add_s32(int& to, int by) { to += by; }
static inline void ptx_selp_f32(float& to, float a, float b, int is) { to = is ? a : b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline void ptx_cvt_f32_f16(float& to, unsigned short from) { to = software_bits<_Float16>(from); }
static inline void ptx_cvt_rn_f16_f32(unsigned short& to, float from) {
  to = software_bits<unsigned short>((_Float16)from);
}
static inline void ptx_cvt_rn_bf16_f32(unsigned short& to, float from) {
  const unsigned bits = software_bits<unsigned>(from);
  to = from != from ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static inline unsigned ptx_bf16(float x) { unsigned short to; ptx_cvt_rn_bf16_f32(to, x); return to; }
static inline void ptx_cvt_rn_bf16x2_f32(unsigned& to, float high, float low) {
  to = ptx_bf16(high) << 16 | ptx_bf16(low);
}
static inline void ptx_cvt_rn_f16x2_f32(unsigned& to, float high, float low) {
  to = (unsigned)software_bits<unsigned short>((_Float16)high) << 16 | software_bits<unsigned short>((_Float16)low);
}

// --- a warp together: each lane gives a record and sees all 32 ---
template <class Record> static const Record* software_exchange(const Record& mine) {
  return (const Record*)software.exchange(&mine, sizeof(Record));
}
#define software_lane (threadIdx.x % 32)
static inline void __syncwarp() { software_exchange(0); }
template <class Value> static inline Value __shfl_xor_sync(unsigned, Value value, int distance) {
  return software_exchange(value)[software_lane ^ distance];
}
struct alignas(8) float2 { float x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float __shfl_up_sync(unsigned, float value, int distance) {
  const float* all = software_exchange(value);
  return software_lane < distance ? value : all[software_lane - distance];
}
static inline float __shfl_down_sync(unsigned, float value, int distance) {
  const float* all = software_exchange(value);
  return software_lane + distance > 31 ? value : all[software_lane + distance];
}
static inline float __shfl_sync(unsigned, float value, int lane) { return software_exchange(value)[lane]; }

static inline unsigned __cvta_generic_to_shared(const void* place) {
  return (const unsigned char*)place - memory;
}
static inline void software_ldmatrix(unsigned* to, unsigned address, bool turned) {
  const unsigned* all = software_exchange(address);
  for (int m = 0; m < 4; m++) {
    auto at = [&](int row, int col) {
      unsigned short bits; memcpy(&bits, memory + all[8 * m + row] + 2 * col, 2); return (unsigned)bits;
    };
    const int far = software_lane / 4, near = software_lane % 4 * 2;
    to[m] = turned ? at(near + 1, far) << 16 | at(near, far) : at(far, near + 1) << 16 | at(far, near);
  }
  __syncwarp();
}
static inline void ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  unsigned to[4]; software_ldmatrix(to, address, false); a = to[0], b = to[1], c = to[2], d = to[3];
}
static inline void ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  unsigned to[4]; software_ldmatrix(to, address, true); a = to[0], b = to[1], c = to[2], d = to[3];
}
static inline void ptx_stmatrix_sync_aligned_m8n8_x4_shared_b16(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
  struct Row { unsigned address, words[4]; };
  const Row mine = {address, {a, b, c, d}};
  const Row* all = software_exchange(mine);
  for (int m = 0; m < 4; m++) memcpy(memory + all[8 * m + software_lane / 4].address + software_lane % 4 * 4, &mine.words[m], 4);
  __syncwarp();
}
static inline void ptx_st_global_v2_f32(float* to, float low, float high) {
  to[0] = low, to[1] = high;
}
static inline void ptx_st_global_v4_b32(void* to, unsigned a, unsigned b, unsigned c, unsigned d) {
  const unsigned words[4] = {a, b, c, d};
  memcpy(to, words, 16);
}
static inline void ptx_movmatrix_sync_aligned_m8n8_trans_b16(unsigned& to, unsigned pair) {
  const unsigned* all = software_exchange(pair);
  const int far = software_lane / 4, near = software_lane % 4 * 2;
  auto at = [&](int row) { return all[row * 4 + far / 2] >> far % 2 * 16 & 0xffff; };
  to = at(near + 1) << 16 | at(near);
  __syncwarp();
}
static inline void ptx_max_bf16x2(unsigned& to, unsigned a, unsigned b) {
  auto number = [](unsigned bits) { unsigned wide = bits << 16; float x; memcpy(&x, &wide, 4); return x; };
  auto larger = [&](unsigned x, unsigned y) { return (number(x) >= number(y) || number(y) != number(y) ? x : y) & 0xffff; };
  to = larger(a >> 16, b >> 16) << 16 | larger(a & 0xffff, b & 0xffff);
}
struct Factors { unsigned a[4], b[2]; };
template <class Float>
static inline void software_mma(float& d0, float& d1, float& d2, float& d3, Float number, const Factors& mine) {
  const Factors* all = software_exchange(mine);
  float* const sums[2][2] = {{&d0, &d1}, {&d2, &d3}};
  for (int half = 0; half < 2; half++) for (int next = 0; next < 2; next++) {
    for (int k = 0; k < 16; k++) {
      const Factors& left = all[software_lane / 4 * 4 + k % 8 / 2];
      const Factors& right = all[(software_lane % 4 * 2 + next) * 4 + k % 8 / 2];
      *sums[half][next] += number(left.a[half + k / 8 * 2] >> k % 2 * 16) * number(right.b[k / 8] >> k % 2 * 16);
    }
  }
}
static inline void ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(float& d0, float& d1, float& d2, float& d3,
    unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  auto number = [](unsigned bits) { return __uint_as_float(bits << 16); };
  software_mma(d0, d1, d2, d3, number, {{a0, a1, a2, a3}, {b0, b1}});
}
static inline void ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(float& d0, float& d1, float& d2, float& d3,
    unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  auto number = [](unsigned bits) { return (float)software_bits<_Float16>((unsigned short)bits); };
  software_mma(d0, d1, d2, d3, number, {{a0, a1, a2, a3}, {b0, b1}});
}

static inline void ptx_mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32(float& d0, float& d1, float& d2, float& d3,
    unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const Factors* all = software_exchange(Factors{{a0, a1, a2, a3}, {b0, b1}});
  // Of the factors' bits eleven count.
  auto number = [](unsigned bits) { return __uint_as_float(bits & 0xffffe000u); };
  float* const sums[2][2] = {{&d0, &d1}, {&d2, &d3}};
  for (int half = 0; half < 2; half++) for (int next = 0; next < 2; next++) for (int k = 0; k < 8; k++) {
    const Factors& left = all[software_lane / 4 * 4 + k % 4];
    const Factors& right = all[(software_lane % 4 * 2 + next) * 4 + k % 4];
    *sums[half][next] += number(left.a[half + k / 4 * 2]) * number(right.b[k / 4]);
  }
  __syncwarp();
}

// --- products of a warpgroup: factors in shared memory, as their descriptors say (PTX ISA 8.7, 9.7.15.5) ---
static inline unsigned short software_element(unsigned long long descriptor, bool turned, int row, int k) {
  const unsigned start = (descriptor & 0x3fff) << 4;
  const unsigned next_panel = (descriptor >> 16 & 0x3fff) << 4, next_eight = (descriptor >> 32 & 0x3fff) << 4;
  unsigned at = start + (turned ? row / 64 * next_panel + k / 8 * next_eight + k % 8 * 128 + row % 64 * 2
                                : row / 8 * next_eight + row % 8 * 128 + k * 2);
  if (descriptor >> 62 == 1) at ^= (at >> 7 & 7) << 4;
  unsigned short bits; memcpy(&bits, memory + at, 2); return bits;
}
struct Operand {
  float* sum = nullptr; unsigned long long bits = 0;
  Operand(float& sum) : sum(&sum) {}
  template <class Integer> Operand(Integer bits) : bits(bits) {}
};
template <int width, class Number>
static void software_wgmma(Number number, const Operand* operands) {
  const unsigned long long left = operands[width / 2].bits, right = operands[width / 2 + 1].bits;
  const bool turn_left = operands[width / 2 + 2].bits, turn_right = operands[width / 2 + 3].bits, add = operands[width / 2 + 4].bits;
  const int first = threadIdx.x / 32 % 4 * 16 + software_lane / 4;
  for (int i = 0; i < width / 2; i++) {
    const int row = first + i / 2 % 2 * 8, col = i / 4 * 8 + software_lane % 4 * 2 + i % 2;
    if (!add) *operands[i].sum = 0.0f;
    for (int k = 0; k < 16; k++) {
      *operands[i].sum += number(software_element(left, turn_left, row, k)) * number(software_element(right, turn_right, col, k));
    }
  }
}
#define SOFTWARE_WGMMA_OF(width, type, number) \
  template <class... Operands> static void ptx_wgmma_mma_async_sync_aligned_m64n##width##k16_f32_##type##_##type(Operands&&... all) { \
    const Operand operands[] = {all...}; \
    software_wgmma<width>(number, operands); \
  }
#define SOFTWARE_WGMMA(width) \
  SOFTWARE_WGMMA_OF(width, bf16, [](unsigned bits) { return __uint_as_float(bits << 16); }) \
  SOFTWARE_WGMMA_OF(width, f16, [](unsigned bits) { return (float)software_bits<_Float16>((unsigned short)bits); })
SOFTWARE_WGMMA(8) SOFTWARE_WGMMA(16) SOFTWARE_WGMMA(24) SOFTWARE_WGMMA(32) SOFTWARE_WGMMA(40) SOFTWARE_WGMMA(48)
SOFTWARE_WGMMA(56) SOFTWARE_WGMMA(64) SOFTWARE_WGMMA(80) SOFTWARE_WGMMA(96) SOFTWARE_WGMMA(112) SOFTWARE_WGMMA(128)
static inline void ptx_wgmma_fence_sync_aligned() {}
static inline void ptx_wgmma_commit_group_sync_aligned() {}
static inline void ptx_wgmma_wait_group_sync_aligned() {}
static inline void ptx_fence_proxy_async_shared_cta() {}
static inline void ptx_(float&) {}
static inline void ptx_bar_sync(unsigned number, unsigned threads) { software.meet(number, threads, true); }
static inline void ptx_setmaxnreg_inc_sync_aligned_u32(unsigned) {}
static inline void ptx_setmaxnreg_dec_sync_aligned_u32(unsigned) {}
static inline void ptx_bar_arrive(unsigned number, unsigned threads) { software.meet(number, threads, false); }

// --- copies in the background: made only when they are waited for ---
static inline void ptx_cp_async_cg_shared_global(unsigned to, const void* from, int given) { software.copy(memory + to, from, 16, given); }
static inline void ptx_cp_async_ca_shared_global(unsigned to, const void* from, int given) { software.copy(memory + to, from, 4, given); }
static inline void ptx_cp_async_commit_group() { software.commit(); }
static inline void ptx_cp_async_wait_group(unsigned pending) { software.complete(pending); }

// --- the copy engine: tiles are brought when their turn is waited for (PTX ISA 8.7) ---
static inline void ptx_mbarrier_init_shared_cta_b64(unsigned address, int count) { software.openArrival(memory + address, count); }
static inline void ptx_fence_mbarrier_init_release_cluster() {}
static inline void ptx_mbarrier_arrive_expect_tx_shared_cta_b64(unsigned address, int bytes) { software.arriveExpecting(memory + address, bytes); }
static inline void ptx_cp_async_bulk_tensor_4d_shared_cluster_global_mbarrier_complete_tx_bytes(unsigned to, const void* map, unsigned arrival,
    int col, int row, int head, int outer) {
  software.copyTile(memory + to, map, memory + arrival, col, row, head, outer);
}
static inline void ptx_mbarrier_try_wait_parity_shared_cta_b64(unsigned& arrived, unsigned address, int parity) {
  software.awaitTiles(memory + address, parity); arrived = 1;
}

extern "C" { extern float __start_shared_memory[] __attribute__((weak, visibility("hidden")));
             extern float __stop_shared_memory[] __attribute__((weak, visibility("hidden"))); }
extern "C" void software_bind(const Place* thread, const Place* block, const Services* services) {
  software_thread = thread; software_block = block; software = *services;
}
extern "C" void software_poison() {
  for (float* x = __start_shared_memory; x < __stop_shared_memory; x++) *x = __builtin_nanf("");
  memset(memory, 0xff, sizeof(memory));
}
// Was nothing written behind the shared memory of a block?
extern "C" bool software_is_sound(unsigned bytes) {
  for (; bytes < sizeof(memory); bytes++) if (memory[bytes] != 0xff) return false;
  return true;
}
// Braces take the arguments in order.
template <class... Args> struct Call { Call(void (*kernel)(Args...), Args... args) { kernel(args...); } };
template <class... Args> static void software_call(void (*kernel)(Args...), void** args) {
  Call<Args...>{kernel, *(Args*)*args++...};
}
// What a kernel takes; behind the last there is one of size 0.
struct Argument { unsigned size, alignment; };
template <class... Args> static const Argument* software_arguments(void (*)(Args...)) {
  static constexpr Argument all[] = {{sizeof(Args), alignof(Args)}..., {0, 0}};
  return all;
}
