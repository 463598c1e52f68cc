// What the stand-in for NCCL moves numbers by: a file in memory that all ranks of a group map, with a channel from each
// rank to each.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace fake {

// A use that NCCL would have answered by a wrong number, a crash or a wait for ever: prints it and aborts.
[[noreturn]] void violation(const std::string& what);

// One side of a message. Both have to say the same of it.
struct Transfer {
  enum Kind : uint32_t { message = 1, gathered, broadcast };
  bool sends;
  Kind kind;
  int peer;
  char* data;
  size_t bytes;
  // How far it has come, with the header.
  size_t done = 0;
  bool told = false;
};

class Group {
 public:
  Group(const std::string& path, int rank, int size);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  bool isComplete() const;
  // Moves what can be moved; whether all is done. `number` counts the groups of calls that this rank has executed.
  bool progress(std::deque<Transfer>& transfers, uint64_t number);

 private:
  struct Channel;
  struct Shared;
  Channel& channel(int from, int to) const;
  bool advance(Transfer& transfer, uint64_t number);

  const std::string path_;
  const int rank_, size_;
  size_t bytes_;
  Shared* shared_;
};

}  // namespace fake
