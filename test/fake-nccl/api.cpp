// A stand-in for NCCL 2, for tests: the functions that this project uses, strict about how they are used, moving
// numbers between processes of one machine. It is written from NCCL's documentation, with its names and values, and
// includes none of the declarations that it is to test:
// https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
//
// Beside cuda-host, whose streams have nothing that waits, a group of calls is executed while commGetAsyncError is
// asked. Where FAKE_NCCL_CUDART is the library on the stand-in for the CUDA runtime (test/fake-cudart), a group goes on
// its streams, into captures too.
//
// DDPM_FAKE_NCCL is a list of what is to go wrong: version=<number>, init-fails, lost=<n>: the n-th group of a rank
// that ends so. To the file DDPM_FAKE_NCCL_LOG goes a line for each group that is executed.
#include <dlfcn.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>

#include "test/fake-nccl/transfers.h"

namespace {

using fake::Transfer;
using fake::violation;

enum Status { ok = 0, systemError = 2, remoteError = 6, inProgress = 7 };

struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};
struct UniqueId {
  char bytes[128];
};

struct Comm {
  Comm(const std::string& path, int rank, int size) : group(path, rank, size), rank(rank), size(size) {}
  fake::Group group;
  const int rank, size;
  bool joins = true, finalized = false;
  void* stream = nullptr;
  // Beside cuda-host: what is under way. On streams: whether the last group was asked about.
  std::deque<Transfer> transfers;
  bool unsettled = false;
  uint64_t executed = 0;
  bool lost = false;
};

std::recursive_mutex lock;  // of all that follows
std::set<Comm*> living;
int depth = 0;
// Of the group that is open.
Comm* user = nullptr;
std::deque<Transfer> collected;
std::string line;

// The value of an option, "" where it has none; null where it is not asked for.
const char* option(const char* name) {
  thread_local std::string value;
  const char* all = std::getenv("DDPM_FAKE_NCCL");
  std::string words = std::string(all ? all : "") + ",";
  for (size_t at = 0, end; (end = words.find(',', at)) != std::string::npos; at = end + 1) {
    const std::string word = words.substr(at, end - at);
    const size_t sign = word.find('=');
    if (word.substr(0, sign) != name) continue;
    value = sign == std::string::npos ? "" : word.substr(sign + 1);
    return value.c_str();
  }
  return nullptr;
}

void log(const std::string& text) {
  const char* path = std::getenv("DDPM_FAKE_NCCL_LOG");
  std::FILE* file = path ? std::fopen(path, "a") : nullptr;
  if (!file) return;
  std::fprintf(file, "%s\n", text.c_str());
  std::fclose(file);
}

void check(Comm* comm) {
  if (!living.count(comm)) violation("a communicator that is not there is used");
}

// Adds to the open group.
void add(Comm* comm, void* stream, const std::string& what) {
  check(comm);
  if (depth != 1) violation(what + " outside a group");
  if (comm->joins || comm->unsettled || !comm->transfers.empty())
    violation(what + " while the communicator is in progress");
  if (comm->finalized) violation(what + " after ncclCommFinalize");
  if (!stream) violation(what + " on the default stream, which is nobody's here");
  if (user && (user != comm || comm->stream != stream)) violation("a group on two streams");
  if (!std::getenv("FAKE_NCCL_CUDART") && comm->stream && comm->stream != stream)
    violation(what + " on another stream");
  user = comm;
  comm->stream = stream;
  line += (line.empty() ? "" : ", ") + what;
}

std::string counted(const char* what, size_t count, int peer) {
  return std::string(what) + " " + std::to_string(count) + " " + std::to_string(peer);
}

void checkType(int type) {
  if (type != 0) violation("another type than ncclInt8");
}

// ---------------------------------------------------------------------------------------------------------------------
// On the streams of the stand-in for the CUDA runtime

using Issue = int (*)(void* stream, const char* name, const void* const* operands, const size_t* bytes, int count,
                      void (*run)(void*), void* argument);

Issue issueOnStream() {
  const char* path = std::getenv("FAKE_NCCL_CUDART");
  if (!path) return nullptr;
  static const auto issue = reinterpret_cast<Issue>(dlsym(dlopen(path, RTLD_NOW | RTLD_NOLOAD), "fake_cudart_issue"));
  if (!issue) violation(std::string("no stand-in for the CUDA runtime: ") + path);
  return issue;
}

// What a stream, or a graph as often as it is launched, executes.
struct Kernel {
  Comm* comm;
  std::deque<Transfer> transfers;
  std::string line;
};

void execute(void* argument) {
  const Kernel& kernel = *static_cast<Kernel*>(argument);
  {
    const std::lock_guard guard(lock);
    check(kernel.comm);
    log("rank " + std::to_string(kernel.comm->rank) + ": " + kernel.line);
  }
  std::deque<Transfer> transfers = kernel.transfers;
  ++kernel.comm->executed;
  for (int64_t looks = 0; !kernel.comm->group.progress(transfers, kernel.comm->executed); ++looks) {
    if (looks > 10000) usleep(200);
    if (looks > 300000) violation("the others did not come within a minute");
  }
}

int issueGroup(Issue issue) {
  auto* kernel = new Kernel{user, collected, line};  // a graph may keep it for ever
  std::vector<const void*> operands;
  std::vector<size_t> bytes;
  for (const Transfer& t : collected) {
    operands.push_back(t.data);
    bytes.push_back(t.bytes);
  }
  return issue(user->stream, "nccl", operands.data(), bytes.data(), int(operands.size()), execute, kernel);
}

// Beside cuda-host: what is under way goes on; false where it isn't done.
bool goOn(Comm* comm) {
  if (comm->transfers.empty()) return true;
  if (!comm->group.progress(comm->transfers, comm->executed)) return false;
  comm->transfers.clear();
  return true;
}

}  // namespace

#define FAKE_API extern "C" __attribute__((visibility("default")))

FAKE_API int ncclGetVersion(int* version) {
  const char* given = option("version");
  *version = given ? std::atoi(given) : 22304;
  return ok;
}

FAKE_API const char* ncclGetErrorString(int status) {
  return status == remoteError ? "remote process exited or there was a network error" : "unhandled system error";
}

FAKE_API int ncclGetUniqueId(UniqueId* id) {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) return systemError;
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->bytes, sizeof id->bytes, "/dev/shm/ddpm-fake-nccl-%016llx",
                static_cast<unsigned long long>(number));
  return ok;
}

FAKE_API int ncclCommInitRankConfig(Comm** comm, int size, UniqueId id, int rank, const Config* config) {
  const std::lock_guard guard(lock);
  if (config->magic != 0xcafebeef || config->size < sizeof(Config) || config->version < 21400)
    violation("a configuration that NCCL does not know");
  if (config->blocking != 0) violation("a communicator that blocks");
  if (rank < 0 || rank >= size) violation("rank " + std::to_string(rank) + " of " + std::to_string(size));
  if (std::strncmp(id.bytes, "/dev/shm/ddpm-fake-nccl-", 24) != 0) violation("an id that is none");
  if (option("init-fails")) return systemError;
  *comm = new Comm(id.bytes, rank, size);
  living.insert(*comm);
  return inProgress;
}

FAKE_API int ncclCommGetAsyncError(Comm* comm, int* state) {
  const std::lock_guard guard(lock);
  check(comm);
  comm->unsettled = false;
  if (comm->joins) comm->joins = !comm->group.isComplete();
  *state = comm->lost ? remoteError : comm->joins || !goOn(comm) ? inProgress : ok;
  return ok;
}

FAKE_API int ncclCommFinalize(Comm* comm) {
  const std::lock_guard guard(lock);
  check(comm);
  if (comm->finalized) violation("a communicator is finalized twice");
  if (comm->joins || comm->unsettled || !comm->transfers.empty()) violation("a communicator is finalized in progress");
  comm->finalized = comm->unsettled = true;
  return inProgress;
}

FAKE_API int ncclCommDestroy(Comm* comm) {
  const std::lock_guard guard(lock);
  check(comm);
  if (!comm->finalized || comm->unsettled) violation("a communicator is destroyed before it is finalized");
  log("rank " + std::to_string(comm->rank) + ": left");
  living.erase(comm);
  delete comm;
  return ok;
}

FAKE_API int ncclCommAbort(Comm* comm) {
  const std::lock_guard guard(lock);
  check(comm);
  log("rank " + std::to_string(comm->rank) + ": aborted");
  living.erase(comm);
  if (!issueOnStream()) delete comm;  // else what is on a stream may still refer to it
  return ok;
}

FAKE_API int ncclGroupStart() {
  const std::lock_guard guard(lock);
  if (depth++ > 0) violation("a group within a group");
  user = nullptr;
  collected.clear();
  line.clear();
  return ok;
}

FAKE_API int ncclGroupEnd() {
  const std::lock_guard guard(lock);
  if (--depth != 0) violation("the end of a group that was not begun");
  if (!user) return ok;
  const char* lost = option("lost");
  if (const Issue issue = issueOnStream()) {
    user->unsettled = true;
    const int status = issueGroup(issue);
    return status == 0 ? inProgress : systemError;
  }
  log("rank " + std::to_string(user->rank) + ": " + line);
  user->transfers = collected;
  user->unsettled = true;
  ++user->executed;
  if (lost && user->executed >= std::strtoull(lost, nullptr, 10)) user->lost = true;
  return inProgress;
}

FAKE_API int ncclSend(const void* data, size_t count, int type, int peer, Comm* comm, void* stream) {
  const std::lock_guard guard(lock);
  add(comm, stream, counted("send", count, peer));
  checkType(type);
  if (peer < 0 || peer >= comm->size || peer == comm->rank) violation("a message to rank " + std::to_string(peer));
  collected.push_back({true, Transfer::message, peer, static_cast<char*>(const_cast<void*>(data)), count});
  return ok;
}

FAKE_API int ncclRecv(void* data, size_t count, int type, int peer, Comm* comm, void* stream) {
  const std::lock_guard guard(lock);
  add(comm, stream, counted("recv", count, peer));
  checkType(type);
  if (peer < 0 || peer >= comm->size || peer == comm->rank) violation("a message of rank " + std::to_string(peer));
  collected.push_back({false, Transfer::message, peer, static_cast<char*>(data), count});
  return ok;
}

FAKE_API int ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* stream) {
  const std::lock_guard guard(lock);
  add(comm, stream, "allgather " + std::to_string(count));
  checkType(type);
  char* const all = static_cast<char*>(to);
  char* const own = all + size_t(comm->rank) * count;
  if (from != own) violation("an all-gather that is not in place");
  for (int r = 0; r < comm->size; ++r) {
    if (r == comm->rank) continue;
    collected.push_back({true, Transfer::gathered, r, own, count});
    collected.push_back({false, Transfer::gathered, r, all + size_t(r) * count, count});
  }
  return ok;
}

FAKE_API int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Comm* comm, void* stream) {
  const std::lock_guard guard(lock);
  add(comm, stream, counted("broadcast", count, root));
  checkType(type);
  if (from != to) violation("a broadcast that is not in place");
  if (root < 0 || root >= comm->size) violation("a broadcast of rank " + std::to_string(root));
  for (int r = 0; r < comm->size; ++r) {
    if (r == comm->rank) continue;
    if (root == comm->rank) collected.push_back({true, Transfer::broadcast, r, static_cast<char*>(to), count});
    if (root == r) collected.push_back({false, Transfer::broadcast, r, static_cast<char*>(to), count});
  }
  return ok;
}
