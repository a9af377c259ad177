// libcuda and NVRTC in software, as far as runtime/devices/cuda.ts uses them, so that emitted kernels
// run where there is no GPU. The "compiler" is g++; the "GPU" runs a block's threads one after the
// other as fibers, which change at __syncthreads and where a warp works together: instructions on
// matrices mean what PTX ISA 8.7 says (9.7.14). What a GPU would let pass is caught here:
//
// SOFTWARE_CUDA_CHECK=1 makes no code: it says whether a text compiles.
// SOFTWARE_CUDA_SM90=1 makes it a GPU of compute capability 9.0, and so kernels use `wgmma` and the copy engine.
//
//   a missing barrier       SOFTWARE_CUDA_ORDER=backward runs the threads the other way round
//   unwritten shared memory is NaN when a block starts; registers hold a large number
//   a copy not waited for   is NaN: it is made when it is waited for
//   reading past a buffer   gives NaN; writing there is error 700 when the buffer is freed
//   shared memory past what the launch gave is error 700 as well
//   a barrier not all reach is error 719, and so is a place where tiles never arrive
//   tiles that lie askew    are error 716
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

const int kInvalidValue = 1, kNotReady = 600, kIllegalAddress = 700, kMisaligned = 716, kLaunchFailed = 719;

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
struct Argument { unsigned size, alignment; };
struct Function {
  void (*run)(void**); void (*poison)(); bool (*isSound)(unsigned);
  // Behind the last there is one of size 0.
  const Argument* arguments;
};

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
enum class State { kReady, kAtWarp, kAtBlock, kAtNumber, kAtArrival, kDone };
struct Copying { void* to; const void* from; int bytes, given; };
struct Fiber {
  Stack stack; std::vector<char> memory; State state; unsigned exchanges, number;
  // Copies in the background: those of no group yet, and groups that were not waited for.
  std::vector<Copying> open;
  std::deque<std::vector<Copying>> groups;
  // Where it waits for tiles, and for a turn of which parity.
  const void* arrival; unsigned parity;
};
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
// What the block did wrong first.
int mistake;

void blame(int error) { if (mistake == 0) mistake = error; }

void meet(unsigned number, unsigned threads, bool waits) {
  if (number == 0 && waits) return barrier();
  Numbered& one = numbered[number];
  // One that arrives a second time before the others were there has run ahead of them.
  if ((one.arrived > 0 && one.threads != threads) || one.arrived == threads) blame(kLaunchFailed);
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

void copy(void* to, const void* from, int bytes, int given) {
  memset(to, 0xff, bytes);
  fibers[current].open.push_back({to, from, bytes, given});
}

void commit() {
  Fiber& fiber = fibers[current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void complete(unsigned pending) {
  auto& groups = fibers[current].groups;
  for (; groups.size() > pending; groups.pop_front()) {
    for (const Copying& copy : groups.front()) {
      memset(copy.to, 0, copy.bytes);
      memcpy(copy.to, copy.from, copy.given);
    }
  }
}

// --- the copy engine ------------------------------------------------------------------------------

// What cuTensorMapEncodeTiled makes: a tensor of 16-bit numbers, its innermost dimension first.
struct TensorMap { uint64_t mark, address, dims[4], strides[3]; uint32_t box[4]; };
static_assert(sizeof(TensorMap) <= 128);
// Each marks memory of the kernel's own, so that it shows when that holds something else.
const uint64_t kMap = 0x7370616d726f736eull, kArrival = 0x736c617669727261ull;

struct Tile { char* to; TensorMap map; int at[4]; };
// A place for arrivals, an `mbarrier`: of its turn, the arrivals and bytes that are still to come. Tiles by the turn
// they come in, until that is waited for.
struct Arrival { unsigned count, missing; int64_t bytes; unsigned turn; std::map<unsigned, std::vector<Tile>> tiles; };
std::map<const void*, Arrival> arrivals;

void openArrival(void* place, unsigned count) {
  if ((uintptr_t)place % 8) blame(kMisaligned);
  if (arrivals.count(place) || count == 0) blame(kLaunchFailed);
  memcpy(place, &kArrival, 8);
  arrivals[place] = {count, count, 0, 0, {}};
}

Arrival* arrivalAt(const void* place) {
  const auto found = arrivals.find(place);
  if (found != arrivals.end() && memcmp(place, &kArrival, 8) == 0) return &found->second;
  blame(kIllegalAddress);
  return nullptr;
}

void endTurn(Arrival& one) {
  if (one.missing > 0 || one.bytes != 0) return;
  one.turn++;
  one.missing = one.count;
}

void arriveExpecting(void* place, int bytes) {
  Arrival* const one = arrivalAt(place);
  if (!one) return;
  if (one->missing == 0) return blame(kLaunchFailed);
  one->missing--;
  one->bytes += bytes;
  endTurn(*one);
}

void copyTile(void* to, const void* from, void* place, int col, int row, int head, int outer) {
  if ((uintptr_t)to % 1024 || (uintptr_t)from % 64) return blame(kMisaligned);
  TensorMap map;
  memcpy(&map, from, sizeof(map));
  Arrival* const one = arrivalAt(place);
  if (!one) return;
  if (map.mark != kMap) return blame(kIllegalAddress);
  const int bytes = map.box[0] * map.box[1] * map.box[2] * map.box[3] * 2;
  memset(to, 0xff, bytes);
  one->tiles[one->turn].push_back({(char*)to, map, {col, row, head, outer}});
  one->bytes -= bytes;
  endTurn(*one);
}

// Rows of 128 bytes, their eight pieces exchanged by the row's number; zeros outside of the tensor.
void bring(const Tile& tile) {
  const TensorMap& map = tile.map;
  const int rows = map.box[1] * map.box[2] * map.box[3];
  for (int row = 0; row < rows; row++) for (int col = 0; col < (int)map.box[0]; col++) {
    const int within[] = {col, row % (int)map.box[1], row / (int)map.box[1] % (int)map.box[2], row / (int)(map.box[1] * map.box[2])};
    bool inside = true;
    uint64_t from = map.address;
    for (int i = 0; i < 4; i++) {
      const int64_t index = (int64_t)tile.at[i] + within[i];
      inside = inside && index >= 0 && index < (int64_t)map.dims[i];
      from += index * (i == 0 ? 2 : map.strides[i - 1]);
    }
    uint16_t bits = 0;
    if (inside) memcpy(&bits, (const void*)from, 2);
    memcpy(tile.to + row * 128 + (col / 8 ^ row % 8) * 16 + col % 8 * 2, &bits, 2);
  }
}

// A turn is over when that in progress is of the other parity.
bool isOver(const void* place, unsigned parity) {
  const Arrival* const one = arrivalAt(place);
  return !one || one->turn % 2 != parity;
}

void awaitTiles(const void* place, unsigned parity) {
  if (parity > 1) blame(kLaunchFailed);
  while (!isOver(place, parity)) {
    fibers[current].arrival = place;
    fibers[current].parity = parity;
    leave(State::kAtArrival);
  }
  Arrival* const one = arrivalAt(place);
  if (!one || one->turn == 0) return;
  for (const Tile& tile : one->tiles[one->turn - 1]) bring(tile);
  one->tiles.erase(one->turn - 1);
}

bool releaseArrivals() {
  bool any = false;
  for (Fiber& fiber : fibers) {
    if (fiber.state != State::kAtArrival || !isOver(fiber.arrival, fiber.parity)) continue;
    fiber.state = State::kReady;
    any = true;
  }
  return any;
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

// As the prelude has it.
const struct Services {
  void (*barrier)(); const void* (*exchange)(const void*, unsigned); void (*meet)(unsigned, unsigned, bool);
  void (*copy)(void*, const void*, int, int); void (*commit)(); void (*complete)(unsigned);
  void (*openArrival)(void*, unsigned); void (*arriveExpecting)(void*, int);
  void (*copyTile)(void*, const void*, void*, int, int, int, int); void (*awaitTiles)(const void*, unsigned);
} services = {barrier, exchange, meet, copy, commit, complete, openArrival, arriveExpecting, copyTile, awaitTiles};

// Groups of no copies may be left: a wait closes one.
bool isEveryCopyWaitedFor() {
  for (const Fiber& fiber : fibers) {
    for (const std::vector<Copying>& group : fiber.groups) if (!group.empty()) return false;
  }
  for (const auto& [place, one] : arrivals) if (!one.tiles.empty()) return false;
  return true;
}

// Gives the error of what the block did wrong, or 0.
int runBlock(unsigned threads) {
  running->poison();
  for (Numbered& one : numbered) one = {0, 0};
  arrivals.clear();
  mistake = 0;
  for (Fiber& fiber : fibers) {
    fiber.memory.resize(128 * 1024);
    start(fiber.stack, fiber.memory, runFiber);
    fiber.state = State::kReady;
    fiber.exchanges = 0;
    fiber.open.clear();
    fiber.groups.clear();
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
    if (releaseNumbered() || releaseArrivals() || release(0, threads, State::kAtBlock)) continue;
    if (!release(0, threads, State::kDone)) blame(kLaunchFailed);
    return mistake;
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
  // In a block of its own, with a predicate, these are what counts.
  size_t inner = std::string::npos;
  for (const char* name : {"wgmma.mma_async", "mbarrier.try_wait", "selp.f32"}) inner = min(inner, statement.find(name));
  const size_t name = inner != std::string::npos ? inner : statement.find('"') + 1;
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
  text = std::regex_replace(text + rest, given, "");
  const std::regex kernel(R"(__global__ void __launch_bounds__\([^)]*\) (\w+)\()");
  for (std::sregex_iterator at(source.begin(), source.end(), kernel), end; at != end; ++at) {
    const std::string name = at->str(1);
    text += "\nextern \"C\" void run_" + name + "(void** args) { software_call(&" + name + ", args); }\n";
    text += "extern \"C\" const Argument* arguments_" + name + "() { return software_arguments(&" + name + "); }\n";
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
  std::ofstream(base + "/kernel.cpp") << "#include \"" PRELUDE "\"\n"
                                      << (isHopper ? "#define __CUDA_ARCH_FEAT_SM90_ALL\n" : "") << "#line 1\n"
                                      << hostSource(program->source);
  // Without C++'s library, which no kernel needs: half of the linker's time.
  const std::string library = "-shared -nodefaultlibs -o " + base + "/kernel.so";
  const std::string made = getenv("SOFTWARE_CUDA_CHECK") ? "-fsyntax-only" : library;
  const std::string command = "g++ " KERNEL_OPTIONS " " + made + " " + base + "/kernel.cpp -lm -lc -lgcc 2> " + base + "/log";
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
          : error == kMisaligned     ? "CUDA_ERROR_MISALIGNED_ADDRESS"
          : error == kLaunchFailed   ? "CUDA_ERROR_LAUNCH_FAILED"
                                     : nullptr;
  return *text ? 0 : kInvalidValue;
}
API cuGetErrorString(int error, const char** text) {
  *text = error == kInvalidValue     ? "invalid argument"
          : error == kIllegalAddress ? "memory next to a buffer was written"
          : error == kMisaligned     ? "a tile, a map or a place for arrivals lies askew"
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
  using Bind = void (*)(const Place*, const Place*, const Services*);
  ((Bind)dlsym(*module, "software_bind"))(&thread, &block, &services);
  return 0;
}
API cuModuleUnload(void* module) { return dlclose(module); }
API cuModuleGetFunction(Function** function, void* module, const char* name) {
  void* run = dlsym(module, ("run_" + std::string(name)).c_str());
  if (!run) return kInvalidValue;
  *function = new Function{(void (*)(void**))run, (void (*)())dlsym(module, "software_poison"),
                           (bool (*)(unsigned))dlsym(module, "software_is_sound"),
                           ((const Argument* (*)())dlsym(module, ("arguments_" + std::string(name)).c_str()))()};
  return 0;
}
API cuFuncSetAttribute(Function*, int which, int bytes) {
  return which == 8 && bytes <= 227 * 1024 ? 0 : kInvalidValue;
}
// Of parts of 64 columns, which is a row of 128 bytes, and for GPUs that have a copy engine.
API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, uint64_t address, const uint64_t* dims, const uint64_t* strides,
                           const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int, int fill) {
  const bool isWrong = !getenv("SOFTWARE_CUDA_SM90") || (uintptr_t)map % 64 || rank != 4 || address % 16 || box[0] != 64;
  if (isWrong || type != 1 || interleave != 0 || swizzle != 3 || fill != 0) return kInvalidValue;
  TensorMap made = {kMap, address};
  for (int i = 0; i < 4; i++) {
    if (dims[i] == 0 || dims[i] > 1ull << 32 || box[i] == 0 || box[i] > 256 || steps[i] != 1) return kInvalidValue;
    if (i < 3 && (strides[i] % 16 || strides[i] >= 1ull << 40)) return kInvalidValue;
    made.dims[i] = dims[i];
    made.box[i] = box[i];
    if (i < 3) made.strides[i] = strides[i];
  }
  memcpy(map, &made, sizeof(made));
  return 0;
}
API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned sharedBytes, uint64_t stream, void** args, void**) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || gx == 0) return kInvalidValue;
  // The caller may use its memory again at once.
  struct alignas(64) Value { char bytes[128]; };
  std::vector<Value> values;
  for (const Argument* one = function->arguments; one->size > 0; one++, args++) {
    if (one->size > sizeof(Value) || (uintptr_t)*args % one->alignment) return kInvalidValue;
    memcpy(values.emplace_back().bytes, *args, one->size);
  }
  return enqueue(stream, [=]() mutable {
    std::vector<void*> addresses;
    for (Value& value : values) addresses.push_back(&value);
    running = function;
    arguments = addresses.data();
    fibers.resize(bx);
    for (unsigned i = 0; i < gx && !failure; i++) {
      block = {i, 0, 0};
      failure = runBlock(bx);
      if (!failure && (!function->isSound(sharedBytes) || !isEveryCopyWaitedFor())) failure = kIllegalAddress;
    }
  });
}
