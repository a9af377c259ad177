// libcuda and NVRTC in software, as far as runtime/devices/cuda.ts uses them, so that emitted kernels
// run where there is no GPU. The "compiler" is g++; the "GPU" runs a block's threads one after the
// other as fibers, which change at __syncthreads. What a GPU would let pass is caught here:
//
//   a missing barrier       SOFTWARE_CUDA_ORDER=backward runs the threads the other way round
//   unwritten shared memory is NaN when a block starts; registers hold a large number
//   reading past a buffer   gives NaN; writing there is error 700 when the buffer is freed
//   a barrier not all reach is error 719
#include <dlfcn.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace {

const int kInvalidValue = 1, kNotReady = 600, kIllegalAddress = 700, kLaunchFailed = 719;

// What CUDA C++ has beyond C++, for one kernel file; `software_bind` connects it with this library.
const char* const kPrelude = R"(
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <utility>
struct Place { unsigned x, y, z; };
static const Place* software_thread; static const Place* software_block;
static void (*software_barrier)();
#define threadIdx (*software_thread)
#define blockIdx (*software_block)
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() software_barrier()
template <class To, class From> static To software_bits(From from) {
  To to; memcpy(&to, &from, sizeof(To)); return to;
}
static inline float __int_as_float(int bits) { return software_bits<float>(bits); }
static inline float __uint_as_float(unsigned bits) { return software_bits<float>(bits); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline void ptx_cvt_f32_f16(float& to, unsigned short from) { to = software_bits<_Float16>(from); }
static inline void ptx_cvt_rn_f16_f32(unsigned short& to, float from) {
  to = software_bits<unsigned short>((_Float16)from);
}
static inline void ptx_cvt_rn_bf16_f32(unsigned short& to, float from) {
  const unsigned bits = software_bits<unsigned>(from);
  to = from != from ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
extern "C" { extern float __start_shared_memory[] __attribute__((weak, visibility("hidden")));
             extern float __stop_shared_memory[] __attribute__((weak, visibility("hidden"))); }
extern "C" void software_bind(const Place* thread, const Place* block, void (*barrier)()) {
  software_thread = thread; software_block = block; software_barrier = barrier;
}
extern "C" void software_poison() {
  for (float* x = __start_shared_memory; x < __stop_shared_memory; x++) *x = NAN;
}
template <class... Args, size_t... I>
static void software_call(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
  kernel(*(Args*)args[I]...);
}
template <class... Args> static void software_call(void (*kernel)(Args...), void** args) {
  software_call(kernel, args, std::index_sequence_for<Args...>());
}
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

struct Place { unsigned x, y, z; };
struct Function { void (*run)(void**); void (*poison)(); };

Place thread, block;
ucontext_t scheduler;
struct Fiber { ucontext_t context; std::vector<char> stack; bool done; };
std::vector<Fiber> fibers;
unsigned current;
const Function* running;
void** arguments;

void barrier() { swapcontext(&fibers[current].context, &scheduler); }

void runFiber() {
  running->run(arguments);
  fibers[current].done = true;
  barrier();
}

bool runBlock(unsigned threads) {
  running->poison();
  for (Fiber& fiber : fibers) {
    getcontext(&fiber.context);
    fiber.stack.resize(64 * 1024);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    fiber.done = false;
    makecontext(&fiber.context, runFiber, 0);
  }
  const char* order = getenv("SOFTWARE_CUDA_ORDER");
  const bool backward = order && strcmp(order, "backward") == 0;
  for (;;) {
    unsigned done = 0;
    for (unsigned i = 0; i < threads; i++) {
      current = backward ? threads - 1 - i : i;
      thread = {current, 0, 0};
      swapcontext(&scheduler, &fibers[current].context);
      done += fibers[current].done;
    }
    if (done == threads) return true;
    if (done > 0) return false;
  }
}

// --- the compiler ---------------------------------------------------------------------------------

struct Program { std::string source, name, code, log; };

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Plain C++ with an entry `run_<kernel>` that takes arguments as cuLaunchKernel does.
std::string hostSource(const std::string& source) {
  const std::regex ptx(R"x(asm\("([\w.]+) %0, %1;" : "=\w"\((\w+)\) : "\w"\((\w+)\)\))x");
  std::string text, rest = source;
  for (std::smatch found; std::regex_search(rest, found, ptx); rest = found.suffix()) {
    const std::string name = std::regex_replace(found.str(1), std::regex("\\."), "_");
    text += found.prefix().str() + "ptx_" + name + "(" + found.str(2) + ", " + found.str(3) + ")";
  }
  text = kPrelude + text + rest;
  const std::regex kernel(R"(__global__ void __launch_bounds__\([^)]*\) (\w+)\()");
  for (std::sregex_iterator at(source.begin(), source.end(), kernel), end; at != end; ++at) {
    const std::string name = at->str(1);
    text += "\nextern \"C\" void run_" + name + "(void** args) { software_call(&" + name + ", args); }\n";
  }
  return text;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

// A version nobody has, so that what is made here is never taken for a real GPU's.
API nvrtcVersion(int* major, int* minor) { return *major = 0, *minor = 0, 0; }
API nvrtcGetNumSupportedArchs(int* count) { return *count = 1, 0; }
API nvrtcGetSupportedArchs(int* all) { return *all = 80, 0; }
API nvrtcCreateProgram(Program** program, const char* source, const char* name, int, void*, void*) {
  *program = new Program{source, name, "", ""};
  return 0;
}
API nvrtcCompileProgram(Program* program, int, const char**) {
  char folder[] = "/tmp/laspc-software-cuda-XXXXXX";
  if (!mkdtemp(folder)) return kInvalidValue;
  const std::string base = folder;
  std::ofstream(base + "/kernel.cpp") << hostSource(program->source);
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
API cuDeviceGetCount(int* count) { return *count = 1, 0; }
API cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
API cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? 8 : 0, 0; }
API cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "in software"), 0; }
API cuDevicePrimaryCtxRetain(uint64_t* context, int) { return *context = 1, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return failure = 0, 0; }
API cuCtxSetCurrent(uint64_t context) { return context == 1 ? 0 : kInvalidValue; }
API cuStreamCreate(uint64_t* stream, unsigned) { return *stream = 2, 0; }
API cuStreamDestroy_v2(uint64_t) { return 0; }
API cuStreamQuery(uint64_t) {
  static int asked = 0;
  if (failure) return failure;
  return asked++ % 2 == 0 ? kNotReady : 0;
}
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
API cuMemFreeAsync(uint64_t pointer, uint64_t) {
  if (!sizes.count(pointer)) return kInvalidValue;
  for (int side : {0, 1})
    for (size_t i = 0; i < kGuardBytes; i += 4)
      if (memcmp(guardAt(pointer, side) + i, &kGuard, 4)) failure = kIllegalAddress;
  free((char*)pointer - kGuardBytes);
  sizes.erase(pointer);
  return failure;
}
API cuMemsetD32Async(uint64_t pointer, unsigned value, size_t count, uint64_t) {
  for (size_t i = 0; i < count; i++) memcpy((char*)pointer + 4 * i, &value, 4);
  return 0;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, uint64_t) {
  return memcpy((void*)to, from, bytes), 0;
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, uint64_t) {
  return memcpy(to, (void*)from, bytes), 0;
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
  auto bind = (void (*)(const Place*, const Place*, void (*)()))dlsym(*module, "software_bind");
  bind(&thread, &block, barrier);
  return 0;
}
API cuModuleUnload(void* module) { return dlclose(module); }
API cuModuleGetFunction(Function** function, void* module, const char* name) {
  void* run = dlsym(module, ("run_" + std::string(name)).c_str());
  if (!run) return kInvalidValue;
  *function = new Function{(void (*)(void**))run, (void (*)())dlsym(module, "software_poison")};
  return 0;
}
API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned, uint64_t, void** args, void**) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || gx == 0) return kInvalidValue;
  running = function;
  arguments = args;
  fibers.resize(bx);
  for (unsigned i = 0; i < gx && !failure; i++) {
    block = {i, 0, 0};
    if (!runBlock(bx)) failure = kLaunchFailed;
  }
  return 0;
}
