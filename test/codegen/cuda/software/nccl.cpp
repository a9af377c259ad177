// libnccl in software, as far as runtime/devices/nccl-library.ts uses it, over streams in software (cuda.cpp). Ranks may
// be in one process or in several of one machine: a message is a file in a folder of the communicator. It is stricter
// than NCCL: a send is done only when its message was received, so that what may wait does; another size than was
// sent, one GPU for two ranks, and calls on what has ended are errors.
//
// SOFTWARE_NCCL_STALL is a rank whose messages never leave; it leaves a file `stalled` where the first should have.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "streams.h"

namespace {

enum { kSuccess = 0, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7 };

struct Id { char internal[128]; };
struct Config { size_t size; unsigned magic, version; int blocking, cgaClusterSize, minCTAs, maxCTAs; const char* netName; int splitShare; };

struct Comm {
  std::string folder;
  int ranks, rank, device;
  bool isJoined = false;
  int asked = 0, error = kSuccess;
  // By rank: messages so far.
  std::map<int, long> sent, received;
  // Another thread may end it.
  std::atomic<bool> hasEnded{false};
};

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Renamed into place whole.
void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path + ".part", std::ios::binary) << bytes;
  rename((path + ".part").c_str(), path.c_str());
}

std::string placeOf(const Comm& comm, int rank) { return comm.folder + "/rank-" + std::to_string(rank); }

std::string messageOf(const Comm& comm, int from, int to, long number) {
  return comm.folder + "/" + std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number);
}

void join(Comm& comm) {
  for (int rank = 0; rank < comm.ranks; rank++) if (!exists(placeOf(comm, rank))) return;
  for (int rank = 0; rank < comm.ranks; rank++) {
    if (rank != comm.rank && read(placeOf(comm, rank)) == std::to_string(comm.device)) comm.error = kInvalidUsage;
  }
  comm.isJoined = true;
}

struct Message { bool isSend; char* buffer; size_t size; int peer; Comm* comm; uint64_t stream; bool isWritten, isDone; std::string path; };
thread_local int depth = 0;
thread_local std::vector<Message> group;

void advance(Message& message) {
  Comm& comm = *message.comm;
  const char* stalling = getenv("SOFTWARE_NCCL_STALL");
  if (message.isSend && stalling && atoi(stalling) == comm.rank) return write(comm.folder + "/stalled", "");
  if (message.isSend) {
    if (!message.isWritten) write(message.path, std::string(message.buffer, message.size));
    message.isWritten = true;
    message.isDone = !exists(message.path);
  } else if (exists(message.path)) {
    const std::string bytes = read(message.path);
    if (bytes.size() != message.size) comm.error = kInvalidUsage;
    else memcpy(message.buffer, bytes.data(), bytes.size());
    unlink(message.path.c_str());
    message.isDone = true;
  }
}

int add(bool isSend, void* buffer, size_t size, int type, int peer, Comm* comm, uint64_t stream) {
  if (depth == 0 || type != 0 || size == 0) return kInvalidArgument;
  if (comm->hasEnded || !comm->isJoined || peer < 0 || peer >= comm->ranks || peer == comm->rank) return kInvalidArgument;
  const std::string path = isSend ? messageOf(*comm, comm->rank, peer, comm->sent[peer]++)
                                  : messageOf(*comm, peer, comm->rank, comm->received[peer]++);
  group.push_back({isSend, (char*)buffer, size, peer, comm, stream, false, false, path});
  return kSuccess;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

API ncclGetVersion(int* version) { return *version = 22700, kSuccess; }
API ncclGetUniqueId(Id* id) {
  const char* base = getenv("TMPDIR");
  snprintf(id->internal, sizeof(id->internal), "%s/laspc-software-nccl-XXXXXX", base ? base : "/tmp");
  return mkdtemp(id->internal) ? kSuccess : kInvalidArgument;
}
API ncclCommInitRankConfig(Comm** comm, int ranks, Id id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->size != sizeof(Config) || config->blocking != 0) return kInvalidArgument;
  for (int unset : {config->cgaClusterSize, config->minCTAs, config->maxCTAs, config->splitShare})
    if (unset != INT_MIN) return kInvalidArgument;
  *comm = new Comm{id.internal, ranks, rank, software_device()};
  write(placeOf(**comm, rank), std::to_string((*comm)->device));
  return kInProgress;
}
// What was begun takes until it is asked for a second time.
API ncclCommGetAsyncError(Comm* comm, int* error) {
  if (comm->hasEnded) return kInvalidArgument;
  software_progress();
  if (!comm->isJoined) join(*comm);
  *error = comm->error ? comm->error : comm->isJoined && comm->asked++ > 0 ? kSuccess : kInProgress;
  return kSuccess;
}
API ncclSend(void* buffer, size_t size, int type, int peer, Comm* comm, uint64_t stream) {
  return add(true, buffer, size, type, peer, comm, stream);
}
API ncclRecv(void* buffer, size_t size, int type, int peer, Comm* comm, uint64_t stream) {
  return add(false, buffer, size, type, peer, comm, stream);
}
API ncclGroupStart() { return depth++, kSuccess; }
API ncclGroupEnd() {
  if (--depth > 0 || group.empty()) return kSuccess;
  Comm* comm = group[0].comm;
  const uint64_t stream = group[0].stream;
  comm->asked = 0;
  const auto messages = std::make_shared<std::vector<Message>>(std::move(group));
  group.clear();
  const int wrong = software_enqueue(stream, comm->device, [comm, messages] {
    bool isDone = true;
    for (Message& message : *messages) {
      if (comm->hasEnded) return true;
      if (!message.isDone) advance(message);
      isDone = isDone && message.isDone;
    }
    return isDone;
  });
  return wrong ? kInvalidArgument : kInProgress;
}
API ncclCommFinalize(Comm* comm) { return comm->hasEnded ? kInvalidArgument : (comm->asked = 0, kInProgress); }
API ncclCommDestroy(Comm* comm) {
  comm->hasEnded = true;
  unlink(placeOf(*comm, comm->rank).c_str());
  rmdir(comm->folder.c_str());
  return kSuccess;
}
// What is queued of it is done then, as far as streams care; with SOFTWARE_NCCL_STUCK the GPU does not let go of it.
API ncclCommAbort(Comm* comm) {
  while (getenv("SOFTWARE_NCCL_STUCK")) pause();
  return comm->hasEnded = true, kSuccess;
}
extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(int error) {
  return error == kInvalidArgument ? "invalid argument" : error == kInvalidUsage ? "invalid usage" : nullptr;
}
