#include "kernels/cuda/host/counts.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <unordered_map>

namespace ddpm::cuda::host {
namespace {

constexpr uintptr_t kSector = 32, kWord = 4, kBanks = 32;
constexpr size_t kWidest = 16;  // bytes of a lane's request

struct Access {
  const void* place;
  uintptr_t address;
  uint16_t bytes, lane;
  Space space;
};

// Of the running block, by thread; and the sums of the grid.
std::vector<std::vector<Access>> logs;
struct {
  uint64_t globalRequests, sectors, leastSectors, globalBytes;
  uint64_t storeSectors, leastStoreSectors;
  uint64_t sharedRequests, wavefronts, leastWavefronts;
} totals;

size_t distinct(std::vector<uintptr_t>& numbers) {
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers.size();
}

// The accesses of a request all have the same size, and are aligned to it.
void addGlobal(const std::vector<Access>& request) {
  const uint64_t bytes = request.front().bytes;
  std::vector<uintptr_t> addresses, sectors;
  for (const Access& a : request) {
    addresses.push_back(a.address);
    for (uintptr_t s = a.address / kSector; s <= (a.address + bytes - 1) / kSector; ++s) sectors.push_back(s);
  }
  ++totals.globalRequests;
  totals.globalBytes += request.size() * bytes;
  const uint64_t touched = distinct(sectors), least = (distinct(addresses) * bytes + kSector - 1) / kSector;
  totals.sectors += touched;
  totals.leastSectors += least;
  if (request.front().space != Space::stored) return;
  totals.storeSectors += touched;
  totals.leastStoreSectors += least;
}

void addShared(const std::vector<Access>& request) {
  const size_t bytes = request.front().bytes;
  const int lanes = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;  // that go at once
  ++totals.sharedRequests;
  for (int part = 0; part < 32 / lanes; ++part) {
    std::vector<uintptr_t> words;
    for (const Access& a : request)
      if (a.lane / lanes == part)
        for (uintptr_t w = 0; w < bytes / kWord; ++w) words.push_back(a.address / kWord + w);
    if (words.empty()) continue;
    const size_t all = distinct(words);
    size_t banks[kBanks] = {};
    for (const uintptr_t word : words) ++banks[word % kBanks];
    totals.wavefronts += *std::max_element(banks, banks + kBanks);
    totals.leastWavefronts += (all + kBanks - 1) / kBanks;
  }
}

}  // namespace

void countAt(const void* place, Space space, const void* address, size_t bytes) {
  const auto at = uintptr_t(address);
  for (size_t from = 0; from < bytes; from += kWidest)
    logs[size_t(thread->number)].push_back({static_cast<const char*>(place) + from / kWidest, at + from,
                                            uint16_t(std::min(bytes - from, kWidest)), uint16_t(laneNumber()), space});
}

void countHere(Space space, const void* address, size_t bytes) {
  countAt(__builtin_return_address(0), space, address, bytes);
}

void beginCounts() {
  counting = std::getenv("DDPM_HOST_COUNTS") != nullptr;
  if (!counting) return;
  totals = {};
  logs.assign(kMaxThreads, {});
}

// The i-th time that a lane is at a place belongs to the i-th time of the others.
void endBlockCounts(int threads) {
  if (!counting) return;
  for (int first = 0; first < threads; first += kWarp) {
    std::map<std::pair<const void*, int>, std::vector<Access>> requests;
    for (int t = first; t < std::min(first + kWarp, threads); ++t) {
      std::unordered_map<const void*, int> times;
      for (const Access& a : logs[size_t(t)]) requests[{a.place, times[a.place]++}].push_back(a);
      logs[size_t(t)].clear();
    }
    for (const auto& [key, request] : requests)
      request.front().space == Space::shared ? addShared(request) : addGlobal(request);
  }
}

void endCounts(const std::string& kernel, dim3 grid, dim3 block) {
  if (!counting) return;
  counting = false;
  const char* name = std::getenv("DDPM_HOST_COUNTS");
  FILE* file = name ? std::fopen(name, "a") : nullptr;
  if (!file) throw std::runtime_error("DDPM_HOST_COUNTS: a file that can be written, please");
  std::fprintf(file, "{\"kernel\":\"%s\",\"grid\":[%u,%u,%u],\"block\":[%u,%u,%u]", kernel.c_str(), grid.x, grid.y,
               grid.z, block.x, block.y, block.z);
  const std::pair<const char*, uint64_t> numbers[] = {
      {"globalRequests", totals.globalRequests},  {"sectors", totals.sectors},
      {"leastSectors", totals.leastSectors},      {"globalBytes", totals.globalBytes},
      {"storeSectors", totals.storeSectors},      {"leastStoreSectors", totals.leastStoreSectors},
      {"sharedRequests", totals.sharedRequests},  {"wavefronts", totals.wavefronts},
      {"leastWavefronts", totals.leastWavefronts}};
  for (const auto& [what, number] : numbers)
    std::fprintf(file, ",\"%s\":%llu", what, static_cast<unsigned long long>(number));
  std::fprintf(file, "}\n");
  std::fclose(file);
}

}  // namespace ddpm::cuda::host
