#include "test/fake-cudart/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>

#include "test/fake-cudart/faults.h"
#include "test/fake-cudart/report.h"

namespace fake {
namespace {

constexpr size_t kAddresses = size_t(64) << 30, kAlignment = 512, kPage = 4096;
// In a kernel's arguments addresses are told by their values, and beside a number or a bool may lie, as padding, the
// rest of an address that was there before. So this memory is far from all other; the lower halves of its addresses are
// no likely numbers, since of every 4 GiB the window from kWindow to kWindowEnd is given away; and their last bytes are
// no bool, since every allocation begins kOffset bytes after a multiple of 256.
constexpr uintptr_t kBase = 0x5d0000000000;
constexpr size_t kTurn = size_t(4) << 30, kWindow = 0x90000000, kWindowEnd = 0xb0000000, kOffset = 64;

struct Block {
  size_t bytes;
  int device;
  Pool* pool;
  bool live;
  bool mapped;  // what is not may only be found to be used
  // Of the last allocation or, when it is not live, release.
  Stream* stream;
  uint64_t number;
  std::map<Stream*, uint64_t> uses;  // the last of each stream
};

char* base = nullptr;
size_t next = kWindow;              // addresses given so far; those of unmapped memory do not come again
std::map<uintptr_t, Block> blocks;  // by first byte
std::map<int, size_t> reserved;     // by device

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string offset(const void* address) { return "+" + std::to_string(static_cast<const char*>(address) - base); }

std::string name(uintptr_t at, const Block& block) {
  return "an allocation of " + std::to_string(block.bytes) + " bytes at " + offset(reinterpret_cast<void*>(at));
}

bool done(Stream* stream, uint64_t number) { return !stream || !isStream(stream) || stream->done >= number; }

// Pages are never shared between allocations, so that what is unmapped faults.
char* map(size_t bytes) {
  if (!base) {
    void* all = mmap(reinterpret_cast<void*>(kBase), kAddresses, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (all == MAP_FAILED) violation("no addresses for device memory");
    base = static_cast<char*>(all);
  }
  const size_t whole = (kOffset + bytes + kPage - 1) / kPage * kPage;
  if (next % kTurn + whole > kWindowEnd) next = next / kTurn * kTurn + kTurn + kWindow;
  if (next + whole > kAddresses) violation("all addresses of device memory are used up");
  char* memory = base + next;
  next += whole;
  if (mprotect(memory, whole, PROT_READ | PROT_WRITE) != 0) violation("no memory for device memory");
  return memory + kOffset;
}

void unmap(uintptr_t at, Block& block) {
  void* memory = reinterpret_cast<void*>(at - kOffset);
  madvise(memory, kOffset + block.bytes, MADV_DONTNEED);
  mprotect(memory, kOffset + block.bytes, PROT_NONE);
  reserved[block.device] -= block.bytes;
  block.live = block.mapped = false;
}

std::map<uintptr_t, Block>::iterator find(const void* address) {
  auto block = blocks.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (block == blocks.begin()) return blocks.end();
  --block;
  return reinterpret_cast<uintptr_t>(address) < block->first + block->second.bytes ? block : blocks.end();
}

// What the pool keeps and this stream may have: freed in its own order, or in that of one that was waited for since.
std::map<uintptr_t, Block>::iterator kept(const Pool& pool, size_t bytes, Stream* stream) {
  auto best = blocks.end();
  for (auto block = blocks.begin(); block != blocks.end(); ++block) {
    const Block& b = block->second;
    if (b.pool != &pool || b.live || !b.mapped || b.bytes < bytes || (b.stream != stream && !done(b.stream, b.number)))
      continue;
    if (best == blocks.end() || b.bytes < best->second.bytes) best = block;
  }
  return best;
}

}  // namespace

size_t totalBytes() { return setting("FAKE_CUDART_MEMORY", size_t(8) << 30); }
size_t freeBytes(int device) { return totalBytes() - std::min(totalBytes(), reserved[device]); }

void* allocate(int device, size_t bytes, Pool* pool, Stream* stream) {
  bytes = rounded(std::max<size_t>(bytes, 1));
  const uint64_t number = stream ? ++stream->issued : 0;
  auto block = pool ? kept(*pool, bytes, stream) : blocks.end();
  if (block == blocks.end()) {
    if (bytes > freeBytes(device)) return nullptr;
    block = blocks
                .emplace(reinterpret_cast<uintptr_t>(map(bytes)),
                         Block{bytes, device, pool, true, true, stream, number, {}})
                .first;
    reserved[device] += bytes;
    if (pool) pool->reserved += bytes;
  }
  block->second.live = true;
  block->second.stream = stream;
  block->second.number = number;
  block->second.uses.clear();
  if (pool) pool->used += block->second.bytes;
  count("allocation");
  return reinterpret_cast<void*>(block->first);
}

void release(void* memory, Stream* stream) {
  const auto found = blocks.find(reinterpret_cast<uintptr_t>(memory));
  if (found == blocks.end() || !found->second.live) violation("what is freed is not allocated");
  Block& block = found->second;
  for (const auto& [user, number] : block.uses)
    if (user != stream && !done(user, number))
      violation(name(found->first, block) + " is freed while another stream may still use it");
  if (stream && block.stream != stream && !done(block.stream, block.number))
    violation(name(found->first, block) + " is freed in the order of another stream than it was allocated in");
  count("release");
  if (!block.pool) return unmap(found->first, block);
  block.live = false;
  block.stream = stream;
  block.number = stream ? ++stream->issued : 0;
  block.pool->used -= block.bytes;
  if (!block.pool->keeps) trim(*block.pool);
}

void trim(Pool& pool) {
  for (auto& [at, block] : blocks) {
    if (block.pool != &pool || block.live || !block.mapped || !done(block.stream, block.number)) continue;
    pool.reserved -= block.bytes;
    unmap(at, block);
  }
}

bool isDeviceAddress(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 256 > 1 && find(address) != blocks.end();
}

void use(const void* address, size_t bytes, Stream& stream, const std::string& by) {
  const auto found = find(address);
  if (found == blocks.end()) violation(by + " uses device memory at " + offset(address) + ", which is not allocated");
  Block& block = found->second;
  if (!block.live)
    violation(by + " uses " + offset(address) + " in " + name(found->first, block) + ", which was freed");
  if (reinterpret_cast<uintptr_t>(address) + bytes > found->first + block.bytes)
    violation(by + " reaches beyond " + name(found->first, block));
  if (block.device != stream.device) violation(by + " uses memory of another device");
  if (block.stream != &stream && !done(block.stream, block.number))
    violation(by + " uses " + name(found->first, block) + " before the stream that allocates it was waited for");
  block.uses[&stream] = stream.issued + 1;
}

}  // namespace fake
