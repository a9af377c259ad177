// libcuda and NVRTC in software, as far as runtime/devices/cuda.ts uses them, so that emitted kernels
// run where there is no GPU. The "compiler" is g++; the "GPU" runs a block's threads one after the
// other as fibers, which change at __syncthreads and where a warp works together: instructions on
// matrices mean what PTX ISA 8.7 says (9.7.14). What a GPU would let pass is caught here:
//
// SOFTWARE_CUDA_SM90=1 makes it a GPU of compute capability 9.0, and so kernels use `wgmma`.
//
//   a missing barrier       SOFTWARE_CUDA_ORDER=backward runs the threads the other way round
//   unwritten shared memory is NaN when a block starts; registers hold a large number
//   a copy not waited for   is NaN: it is made when it is waited for
//   reading past a buffer   gives NaN; writing there is error 700 when the buffer is freed
//   shared memory past what the launch gave is error 700 as well
//   a barrier not all reach is error 719
//
// A stream does what is queued at once, unless something before it waits for an event or for another rank (nccl.cpp).
// SOFTWARE_CUDA_DEVICES is the number of GPUs.
#include <dlfcn.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "streams.h"

namespace {

const int kInvalidValue = 1, kNotReady = 600, kIllegalAddress = 700, kLaunchFailed = 719;

// What CUDA C++ has beyond C++, for one kernel file; `software_bind` connects it with this library.
const char* const kPrelude = R"(
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <algorithm>
#include <deque>
#include <tuple>
#include <utility>
#include <vector>
using std::max;
using std::min;
struct Place { unsigned x, y, z; };
static const Place* software_thread; static const Place* software_block;
// What this library does for a kernel: see `Services` there.
static struct {
  void (*barrier)(); const void* (*exchange)(const void*, unsigned); void (*meet)(unsigned, unsigned, bool);
} software;
alignas(1024) static unsigned char memory[228 * 1024];
#define threadIdx (*software_thread)
#define blockIdx (*software_block)
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() software.barrier()
template <class To, class From> static To software_bits(From from) {
  To to; memcpy(&to, &from, sizeof(To)); return to;
}
static inline float __int_as_float(int bits) { return software_bits<float>(bits); }
static inline float __uint_as_float(unsigned bits) { return software_bits<float>(bits); }
static inline unsigned __float_as_uint(float x) { return software_bits<unsigned>(x); }
static inline void ptx_ex2_approx_ftz_f32(float& to, float x) { to = exp2f(x); }
static inline void ptx_slct_f32_s32(float& to, float a, float b, int sign) { to = sign >= 0 ? a : b; }
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
template <int width, class Number, class... Operands, size_t... I>
static void software_wgmma(Number number, std::tuple<Operands...> operands, std::index_sequence<I...>) {
  float* const sums[] = {&std::get<I>(operands)...};
  const unsigned long long left = std::get<width / 2>(operands), right = std::get<width / 2 + 1>(operands);
  const bool turn_left = std::get<width / 2 + 2>(operands), turn_right = std::get<width / 2 + 3>(operands);
  const int first = threadIdx.x / 32 % 4 * 16 + software_lane / 4;
  for (int i = 0; i < width / 2; i++) {
    const int row = first + i / 2 % 2 * 8, col = i / 4 * 8 + software_lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      *sums[i] += number(software_element(left, turn_left, row, k)) * number(software_element(right, turn_right, col, k));
    }
  }
}
#define SOFTWARE_WGMMA_OF(width, type, number) \
  template <class... Operands> static void ptx_wgmma_mma_async_sync_aligned_m64n##width##k16_f32_##type##_##type(Operands&&... all) { \
    software_wgmma<width>(number, std::forward_as_tuple(all...), std::make_index_sequence<width / 2>()); \
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
static inline void ptx_bar_arrive(unsigned number, unsigned threads) { software.meet(number, threads, false); }

// --- copies in the background: made only when they are waited for ---
struct Copying { unsigned to; const void* from; int bytes, given; };
static std::vector<Copying> software_open[1024];
static std::deque<std::vector<Copying>> software_groups[1024];
static inline void software_copy(unsigned to, const void* from, int bytes, int given) {
  memset(memory + to, 0xff, bytes);
  software_open[threadIdx.x].push_back({to, from, bytes, given});
}
static inline void ptx_cp_async_cg_shared_global(unsigned to, const void* from, int given) { software_copy(to, from, 16, given); }
static inline void ptx_cp_async_ca_shared_global(unsigned to, const void* from, int given) { software_copy(to, from, 4, given); }
static inline void ptx_cp_async_commit_group() {
  software_groups[threadIdx.x].push_back(std::move(software_open[threadIdx.x]));
  software_open[threadIdx.x].clear();
}
static inline void ptx_cp_async_wait_group(unsigned pending) {
  auto& groups = software_groups[threadIdx.x];
  for (; groups.size() > pending; groups.pop_front()) {
    for (const Copying& copy : groups.front()) {
      memset(memory + copy.to, 0, copy.bytes);
      memcpy(memory + copy.to, copy.from, copy.given);
    }
  }
}

extern "C" { extern float __start_shared_memory[] __attribute__((weak, visibility("hidden")));
             extern float __stop_shared_memory[] __attribute__((weak, visibility("hidden"))); }
extern "C" void software_bind(const Place* thread, const Place* block, void (*barrier)(),
                              const void* (*exchange)(const void*, unsigned), void (*meet)(unsigned, unsigned, bool)) {
  software_thread = thread; software_block = block; software = {barrier, exchange, meet};
}
extern "C" void software_poison() {
  for (float* x = __start_shared_memory; x < __stop_shared_memory; x++) *x = NAN;
  memset(memory, 0xff, sizeof(memory));
}
// Was nothing written behind the shared memory of a block, and every copy waited for?
extern "C" bool software_is_sound(unsigned bytes) {
  for (; bytes < sizeof(memory); bytes++) if (memory[bytes] != 0xff) return false;
  for (auto& groups : software_groups) if (!groups.empty()) return false;
  return true;
}
template <class... Args, size_t... I>
static void software_call(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
  kernel(*(Args*)args[I]...);
}
template <class... Args> static void software_call(void (*kernel)(Args...), void** args) {
  software_call(kernel, args, std::index_sequence_for<Args...>());
}
template <class... Args> static int software_count(void (*)(Args...)) { return sizeof...(Args); }
#line 1
)";

// --- memory ---------------------------------------------------------------------------------------

const size_t kGuardBytes = 128 * 1024;
const uint32_t kGuard = 0x7fff7fff;
std::map<uint64_t, size_t> sizes;
int failure = 0;

char* guardAt(uint64_t pointer, int side) {
  return (char*)pointer + (side == 0 ? -(int64_t)kGuardBytes : (int64_t)sizes[pointer]);
}

// --- a block of threads ---------------------------------------------------------------------------

using std::max;
using std::min;
struct Place { unsigned x, y, z; };
struct Function { void (*run)(void**); void (*poison)(); bool (*isSound)(unsigned); int count; };

// Switches from one stack to another. swapcontext does, but asks the kernel for signal masks each time.
#ifdef __x86_64__
using Stack = void*;
extern "C" void switch_stack(Stack* from, Stack* to);
asm(R"(
switch_stack:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
void start(Stack& stack, std::vector<char>& memory, void (*run)()) {
  void** top = (void**)((uintptr_t)(memory.data() + memory.size()) & ~(uintptr_t)15);
  // As after a call: where `run` would return to, then `run`, then the six registers.
  top[-1] = nullptr;
  top[-2] = (void*)run;
  stack = top - 8;
}
#else
using Stack = ucontext_t;
void switch_stack(Stack* from, Stack* to) { swapcontext(from, to); }
void start(Stack& stack, std::vector<char>& memory, void (*run)()) {
  getcontext(&stack);
  stack.uc_stack.ss_sp = memory.data();
  stack.uc_stack.ss_size = memory.size();
  stack.uc_link = nullptr;
  makecontext(&stack, run, 0);
}
#endif

Place thread, block;
Stack scheduler;
enum class State { kReady, kAtWarp, kAtBlock, kAtNumber, kDone };
struct Fiber { Stack stack; std::vector<char> memory; State state; unsigned exchanges, number; };
std::vector<Fiber> fibers;
unsigned current;
const Function* running;
void** arguments;

void leave(State state) {
  fibers[current].state = state;
  switch_stack(&fibers[current].stack, &scheduler);
}

void barrier() { leave(State::kAtBlock); }

// Barriers by number: who arrived, and of how many.
struct Numbered { unsigned arrived, threads; } numbered[16];
bool isOverrun;

void meet(unsigned number, unsigned threads, bool waits) {
  if (number == 0 && waits) return barrier();
  Numbered& one = numbered[number];
  // One that arrives a second time before the others were there has run ahead of them.
  if ((one.arrived > 0 && one.threads != threads) || one.arrived == threads) isOverrun = true;
  one.threads = threads;
  one.arrived++;
  if (!waits) return;
  fibers[current].number = number;
  leave(State::kAtNumber);
}

bool releaseNumbered() {
  bool any = false;
  for (unsigned number = 1; number < 16; number++) {
    Numbered& one = numbered[number];
    if (one.arrived == 0 || one.arrived < one.threads) continue;
    one.arrived = 0;
    any = true;
    for (Fiber& fiber : fibers) {
      if (fiber.state == State::kAtNumber && fiber.number == number) fiber.state = State::kReady;
    }
  }
  return any;
}

// What the lanes of each warp show each other, in turns of two: nobody is two exchanges ahead.
const unsigned kLargestRecord = 32;
char records[32][2][32 * kLargestRecord];

const void* exchange(const void* mine, unsigned size) {
  char* const all = records[current / 32][fibers[current].exchanges++ % 2];
  memcpy(all + current % 32 * size, mine, size);
  leave(State::kAtWarp);
  return all;
}

void runFiber() {
  running->run(arguments);
  leave(State::kDone);
}

// Lets threads go on that all wait in one place, of a warp or of the block.
bool release(unsigned first, unsigned count, State at) {
  for (unsigned i = first; i < first + count; i++) if (fibers[i].state != at) return false;
  for (unsigned i = first; i < first + count; i++) fibers[i].state = State::kReady;
  return true;
}

bool runBlock(unsigned threads) {
  running->poison();
  for (Numbered& one : numbered) one = {0, 0};
  isOverrun = false;
  for (Fiber& fiber : fibers) {
    fiber.memory.resize(128 * 1024);
    start(fiber.stack, fiber.memory, runFiber);
    fiber.state = State::kReady;
    fiber.exchanges = 0;
  }
  const char* order = getenv("SOFTWARE_CUDA_ORDER");
  const bool backward = order && strcmp(order, "backward") == 0;
  for (;;) {
    for (unsigned first = 0; first < threads; first += 32) {
      const unsigned start = backward ? threads - 32 - first : first;
      do {
        for (unsigned i = 0; i < 32; i++) {
          current = start + (backward ? 31 - i : i);
          if (fibers[current].state != State::kReady) continue;
          thread = {current, 0, 0};
          switch_stack(&scheduler, &fibers[current].stack);
        }
      } while (release(start, 32, State::kAtWarp));
    }
    if (releaseNumbered() || release(0, threads, State::kAtBlock)) continue;
    return release(0, threads, State::kDone) && !isOverrun;
  }
}

// --- streams --------------------------------------------------------------------------------------

struct Stream { int device; std::deque<std::function<bool()>> work; };
// One is there from the start, for those that make none.
std::map<uint64_t, Stream> streams = {{2, {0, {}}}};
uint64_t newest = 2;
int device = -1;
// By event: was what came before its last record done?
std::map<uint64_t, std::shared_ptr<bool>> events;

void progress() {
  for (bool isMoving = true; isMoving;) {
    isMoving = false;
    for (auto& [handle, stream] : streams) {
      for (; !stream.work.empty() && stream.work.front()(); isMoving = true) stream.work.pop_front();
    }
  }
}

int enqueue(uint64_t stream, std::function<void()> work) {
  return software_enqueue(stream, device, [work] { return work(), true; });
}

int deviceCount() {
  const char* count = getenv("SOFTWARE_CUDA_DEVICES");
  return count ? atoi(count) : 1;
}

// --- the compiler ---------------------------------------------------------------------------------

struct Program { std::string source, name, code, log; };

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// From an opening bracket to behind its closing one.
size_t closing(const std::string& text, size_t at) {
  for (int depth = 0;; at++) {
    depth += (text[at] == '(') - (text[at] == ')');
    if (depth == 0) return at + 1;
  }
}

// `asm("cvt.f32.f16 %0, %1;" : "=f"(to) : "h"(from))` as `ptx_cvt_f32_f16(to, from)`.
std::string callOfAsm(const std::string& statement) {
  // In a block of its own, with a predicate that is always true, `wgmma` is what counts.
  const size_t wide = statement.find("wgmma.mma_async");
  const size_t name = wide != std::string::npos ? wide : statement.find('"') + 1;
  const size_t end = statement.find_first_of(" ;\"", name);
  std::string call = "ptx_" + std::regex_replace(statement.substr(name, end - name), std::regex("[.:]+"), "_") + "(";
  size_t at = statement.find('"', end) + 1;
  const char* between = "";
  while ((at = statement.find("\"(", at)) != std::string::npos) {
    const size_t behind = closing(statement, ++at);
    call += between + statement.substr(at, behind - at);
    between = ", ";
    at = behind;
  }
  return call + ")";
}

// Plain C++ with an entry `run_<kernel>` that takes arguments as cuLaunchKernel does.
std::string hostSource(const std::string& source) {
  std::string text;
  size_t from = 0;
  const std::regex start(R"(\basm ?(volatile)?\()");
  for (std::smatch found; std::regex_search(source.begin() + from, source.end(), found, start);) {
    const size_t first = from + found.position(0), bracket = first + found.length(0) - 1;
    const size_t behind = closing(source, bracket);
    text += source.substr(from, first - from) + callOfAsm(source.substr(first, behind - first));
    from = behind;
  }
  std::string rest = source.substr(from);
  // What is given at launch is an array of the prelude.
  const std::regex given(R"(extern __shared__ [^;]*memory\[\];)");
  text = kPrelude + std::regex_replace(text + rest, given, "");
  const std::regex kernel(R"(__global__ void __launch_bounds__\([^)]*\) (\w+)\()");
  for (std::sregex_iterator at(source.begin(), source.end(), kernel), end; at != end; ++at) {
    const std::string name = at->str(1);
    text += "\nextern \"C\" void run_" + name + "(void** args) { software_call(&" + name + ", args); }\n";
    text += "extern \"C\" int count_" + name + "() { return software_count(&" + name + "); }\n";
  }
  return text;
}

}  // namespace

int software_enqueue(uint64_t stream, int of, std::function<bool()> work) {
  const auto found = streams.find(stream);
  if (found == streams.end() || found->second.device != of) return kInvalidValue;
  found->second.work.push_back(work);
  progress();
  return 0;
}
void software_progress() { progress(); }
int software_device() { return device; }

#define API extern "C" __attribute__((visibility("default"))) int

// A version nobody has, so that what is made here is never taken for a real GPU's.
API nvrtcVersion(int* major, int* minor) { return *major = 0, *minor = 0, 0; }
API nvrtcGetNumSupportedArchs(int* count) { return *count = 2, 0; }
API nvrtcGetSupportedArchs(int* all) { return all[0] = 80, all[1] = 90, 0; }
API nvrtcCreateProgram(Program** program, const char* source, const char* name, int, void*, void*) {
  *program = new Program{source, name, "", ""};
  return 0;
}
API nvrtcCompileProgram(Program* program, int count, const char** options) {
  char folder[] = "/tmp/laspc-software-cuda-XXXXXX";
  if (!mkdtemp(folder)) return kInvalidValue;
  const std::string base = folder;
  const bool isHopper = std::any_of(options, options + count, [](const char* option) { return strstr(option, "sm_90a"); });
  std::ofstream(base + "/kernel.cpp") << (isHopper ? "#define __CUDA_ARCH_FEAT_SM90_ALL\n" : "") << hostSource(program->source);
  const std::string command = "g++ -std=c++17 -O1 -w -shared -fPIC -ftrivial-auto-var-init=pattern -o " +
                              base + "/kernel.so " + base + "/kernel.cpp 2> " + base + "/log";
  const int failed = system(command.c_str());
  program->code = read(base + "/kernel.so");
  program->log = read(base + "/log");
  for (const char* name : {"/kernel.cpp", "/kernel.so", "/log"}) unlink((base + name).c_str());
  rmdir(folder);
  return failed ? 6 : 0;
}
API nvrtcGetProgramLogSize(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
API nvrtcGetProgramLog(Program* program, char* log) { return strcpy(log, program->log.c_str()), 0; }
// The size in front tells cuModuleLoadData how much there is.
API nvrtcGetCUBINSize(Program* program, size_t* size) { return *size = program->code.size() + 8, 0; }
API nvrtcGetCUBIN(Program* program, char* cubin) {
  const uint64_t size = program->code.size();
  memcpy(cubin, &size, 8);
  memcpy(cubin + 8, program->code.data(), size);
  return 0;
}
API nvrtcDestroyProgram(Program** program) { return delete *program, *program = nullptr, 0; }

API cuInit(unsigned) { return 0; }
API cuDriverGetVersion(int* version) { return *version = 13000, 0; }
API cuDeviceGetCount(int* count) { return *count = deviceCount(), 0; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
API cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? (getenv("SOFTWARE_CUDA_SM90") ? 9 : 8) : which == 97 ? 227 * 1024 : which == 16 ? 1 : 0, 0; }
API cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "in software"), 0; }
API cuDevicePrimaryCtxRetain(uint64_t* context, int of) { return *context = of + 1, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return failure = 0, 0; }
API cuCtxSetCurrent(uint64_t context) {
  device = (int)context - 1;
  return device >= 0 && device < deviceCount() ? 0 : kInvalidValue;
}
API cuStreamCreate(uint64_t* stream, unsigned) { return streams[*stream = ++newest] = {device, {}}, 0; }
API cuStreamDestroy_v2(uint64_t stream) { return streams.erase(stream) == 1 ? 0 : kInvalidValue; }
API cuStreamQuery(uint64_t stream) {
  static int asked = 0;
  progress();
  if (failure) return failure;
  return !streams[stream].work.empty() || asked++ % 2 == 0 ? kNotReady : 0;
}
API cuStreamWaitEvent(uint64_t stream, uint64_t event, unsigned) {
  if (!events.count(event)) return kInvalidValue;
  return software_enqueue(stream, device, [isDone = events[event]] { return *isDone; });
}
API cuEventCreate(uint64_t* event, unsigned) { return events[*event = ++newest] = std::make_shared<bool>(true), 0; }
API cuEventRecord(uint64_t event, uint64_t stream) {
  if (!events.count(event)) return kInvalidValue;
  return enqueue(stream, [isDone = events[event] = std::make_shared<bool>(false)] { *isDone = true; });
}
API cuEventQuery(uint64_t event) {
  progress();
  if (failure) return failure;
  return !events.count(event) ? kInvalidValue : *events[event] ? 0 : kNotReady;
}
API cuEventDestroy_v2(uint64_t event) { return events.erase(event) == 1 ? 0 : kInvalidValue; }
API cuGetErrorName(int error, const char** text) {
  *text = error == kInvalidValue     ? "CUDA_ERROR_INVALID_VALUE"
          : error == kIllegalAddress ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : error == kLaunchFailed   ? "CUDA_ERROR_LAUNCH_FAILED"
                                     : nullptr;
  return *text ? 0 : kInvalidValue;
}
API cuGetErrorString(int error, const char** text) {
  *text = error == kInvalidValue     ? "invalid argument"
          : error == kIllegalAddress ? "memory next to a buffer was written"
          : error == kLaunchFailed   ? "some threads ended while others waited"
                                     : nullptr;
  return *text ? 0 : kInvalidValue;
}

API cuMemAllocAsync(uint64_t* pointer, size_t bytes, uint64_t) {
  char* memory = (char*)malloc(bytes + 2 * kGuardBytes);
  if (!memory || bytes == 0) return kInvalidValue;
  *pointer = (uint64_t)memory + kGuardBytes;
  sizes[*pointer] = bytes;
  for (int side : {0, 1}) for (size_t i = 0; i < kGuardBytes; i += 4) memcpy(guardAt(*pointer, side) + i, &kGuard, 4);
  return 0;
}
API cuMemFreeAsync(uint64_t pointer, uint64_t stream) {
  if (!sizes.count(pointer)) return kInvalidValue;
  const int wrong = enqueue(stream, [pointer] {
    for (int side : {0, 1})
      for (size_t i = 0; i < kGuardBytes; i += 4)
        if (memcmp(guardAt(pointer, side) + i, &kGuard, 4)) failure = kIllegalAddress;
    free((char*)pointer - kGuardBytes);
    sizes.erase(pointer);
  });
  return wrong ? wrong : failure;
}
API cuMemsetD32Async(uint64_t pointer, unsigned value, size_t count, uint64_t stream) {
  return enqueue(stream, [=] { for (size_t i = 0; i < count; i++) memcpy((char*)pointer + 4 * i, &value, 4); });
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, uint64_t stream) {
  return enqueue(stream, [=] { memcpy((void*)to, from, bytes); });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, uint64_t stream) {
  return enqueue(stream, [=] { memcpy(to, (void*)from, bytes); });
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, uint64_t stream) {
  return enqueue(stream, [=] { memcpy((void*)to, (void*)from, bytes); });
}

API cuModuleLoadData(void** module, const char* image) {
  uint64_t size;
  memcpy(&size, image, 8);
  char path[] = "/tmp/laspc-software-cuda-XXXXXX";
  const int file = mkstemp(path);
  const bool written = write(file, image + 8, size) == (ssize_t)size;
  close(file);
  *module = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path);
  if (!*module) return kInvalidValue;
  using Bind = void (*)(const Place*, const Place*, void (*)(), const void* (*)(const void*, unsigned),
                        void (*)(unsigned, unsigned, bool));
  ((Bind)dlsym(*module, "software_bind"))(&thread, &block, barrier, exchange, meet);
  return 0;
}
API cuModuleUnload(void* module) { return dlclose(module); }
API cuModuleGetFunction(Function** function, void* module, const char* name) {
  void* run = dlsym(module, ("run_" + std::string(name)).c_str());
  if (!run) return kInvalidValue;
  *function = new Function{(void (*)(void**))run, (void (*)())dlsym(module, "software_poison"),
                           (bool (*)(unsigned))dlsym(module, "software_is_sound"),
                           ((int (*)())dlsym(module, ("count_" + std::string(name)).c_str()))()};
  return 0;
}
API cuFuncSetAttribute(Function*, int which, int bytes) {
  return which == 8 && bytes <= 227 * 1024 ? 0 : kInvalidValue;
}
API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned sharedBytes, uint64_t stream, void** args, void**) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || gx == 0) return kInvalidValue;
  // The caller may use its memory again at once. Of each argument there are eight bytes.
  std::vector<uint64_t> values(function->count);
  for (int i = 0; i < function->count; i++) memcpy(&values[i], args[i], 8);
  return enqueue(stream, [=]() mutable {
    std::vector<void*> addresses;
    for (uint64_t& value : values) addresses.push_back(&value);
    running = function;
    arguments = addresses.data();
    fibers.resize(bx);
    for (unsigned i = 0; i < gx && !failure; i++) {
      block = {i, 0, 0};
      if (!runBlock(bx)) failure = kLaunchFailed;
      else if (!function->isSound(sharedBytes)) failure = kIllegalAddress;
    }
  });
}
