#include "test/fake-nccl/transfers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

namespace fake {
namespace {

constexpr size_t kRing = size_t(1) << 16;
constexpr int kMostRanks = 64;

struct Header {
  uint32_t kind, spare;
  uint64_t number, bytes;
};

}  // namespace

void violation(const std::string& what) {
  std::fprintf(stderr, "fake-nccl: %s\n", what.c_str());
  std::abort();
}

// Bytes of one writer for one reader. The file is all zero at first.
struct Group::Channel {
  std::atomic<uint64_t> written, read;
  char ring[kRing];

  size_t put(const char* from, size_t bytes) {
    const uint64_t at = written;
    const size_t n = std::min<size_t>(bytes, kRing - size_t(at - read));
    for (size_t i = 0; i < n; ++i) ring[(at + i) % kRing] = from[i];
    written = at + n;
    return n;
  }
  size_t take(char* to, size_t bytes) {
    const uint64_t at = read;
    const size_t n = std::min<size_t>(bytes, size_t(written - at));
    for (size_t i = 0; i < n; ++i) to[i] = ring[(at + i) % kRing];
    read = at + n;
    return n;
  }
};

struct Group::Shared {
  std::atomic<int> joined, left;
  std::atomic<bool> taken[kMostRanks];
  Channel channels[];
};

Group::Group(const std::string& path, int rank, int size) : path_(path), rank_(rank), size_(size) {
  if (size > kMostRanks) violation("more ranks than the stand-in is made for");
  bytes_ = sizeof(Shared) + size_t(size * size) * sizeof(Channel);
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, off_t(bytes_)) != 0) violation("no " + path);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (memory == MAP_FAILED) violation("no memory for " + path);
  shared_ = static_cast<Shared*>(memory);
  if (shared_->taken[rank].exchange(true)) violation("two processes are rank " + std::to_string(rank));
  ++shared_->joined;
}

Group::~Group() {
  if (++shared_->left == shared_->joined) unlink(path_.c_str());
  munmap(shared_, bytes_);
}

bool Group::isComplete() const {
  if (shared_->joined < size_) return false;
  unlink(path_.c_str());  // all have it
  return true;
}

Group::Channel& Group::channel(int from, int to) const { return shared_->channels[from * size_ + to]; }

bool Group::progress(std::deque<Transfer>& transfers, uint64_t number) {
  std::set<std::pair<bool, int>> busy;  // channels on which an earlier one is not done
  bool all = true;
  for (Transfer& transfer : transfers) {
    const auto place = std::make_pair(transfer.sends, transfer.peer);
    if (!busy.count(place) && advance(transfer, number)) continue;
    busy.insert(place);
    all = false;
  }
  return all;
}

bool Group::advance(Transfer& transfer, uint64_t number) {
  if (transfer.told && transfer.done == transfer.bytes) return true;
  Channel& way = transfer.sends ? channel(rank_, transfer.peer) : channel(transfer.peer, rank_);
  if (!transfer.told) {
    Header header = {transfer.kind, 0, number, transfer.bytes};
    if (transfer.sends) {
      if (kRing - size_t(way.written - way.read) < sizeof header) return false;
      way.put(reinterpret_cast<char*>(&header), sizeof header);
    } else {
      if (way.written - way.read < sizeof header) return false;
      way.take(reinterpret_cast<char*>(&header), sizeof header);
      if (header.kind != transfer.kind || header.number != number || header.bytes != transfer.bytes)
        violation("rank " + std::to_string(transfer.peer) + " sends " + std::to_string(header.bytes) +
                  " bytes of kind " + std::to_string(header.kind) + " in its group " + std::to_string(header.number) +
                  ", and rank " + std::to_string(rank_) + " expects " + std::to_string(transfer.bytes) + " of kind " +
                  std::to_string(transfer.kind) + " in its group " + std::to_string(number));
    }
    transfer.told = true;
  }
  char* data = transfer.data + transfer.done;
  const size_t rest = transfer.bytes - transfer.done;
  transfer.done += transfer.sends ? way.put(data, rest) : way.take(data, rest);
  return transfer.done == transfer.bytes;
}

}  // namespace fake
