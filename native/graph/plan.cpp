#include "native/graph/plan.h"

#include <algorithm>

namespace ddpm {
namespace {

struct Lifetime {
  Storage* storage;
  int32_t first = INT32_MAX, last = -1;
  bool meets(const Lifetime& other) const { return first <= other.last && other.first <= last; }
};

// The smallest gap between `neighbours` (in order of their offsets) that holds `bytes`, or the end.
uint64_t bestFit(const std::vector<const Lifetime*>& neighbours, uint64_t bytes) {
  uint64_t end = 0, best = UINT64_MAX, bestGap = UINT64_MAX;
  for (const Lifetime* n : neighbours) {
    const uint64_t begin = n->storage->offset;
    if (begin >= end + bytes && begin - end < bestGap) {
      best = end;
      bestGap = begin - end;
    }
    end = std::max(end, begin + aligned(n->storage->bytes));
  }
  return best == UINT64_MAX ? end : best;
}

}  // namespace

uint64_t planArena(std::vector<Storage>& storages, std::vector<Step>& steps) {
  std::vector<Lifetime> all(storages.size());
  for (size_t i = 0; i < storages.size(); ++i) all[i].storage = &storages[i];
  for (size_t i = 0; i < steps.size(); ++i) {
    visitPointers(steps[i], [&](void*& p, Access) {
      Lifetime& l = all[decode(p).storage];
      l.first = std::min(l.first, int32_t(i));
      l.last = std::max(l.last, int32_t(i));
    });
  }
  std::vector<const Lifetime*> bySize;
  for (const Lifetime& l : all) {
    if (l.storage->kind == Storage::arena && l.last >= 0) bySize.push_back(&l);
  }
  std::stable_sort(bySize.begin(), bySize.end(),
                   [](const Lifetime* a, const Lifetime* b) { return a->storage->bytes > b->storage->bytes; });
  uint64_t total = 0;
  std::vector<const Lifetime*> placed;  // in order of their offsets
  for (const Lifetime* l : bySize) {
    std::vector<const Lifetime*> neighbours;
    std::copy_if(placed.begin(), placed.end(), std::back_inserter(neighbours),
                 [&](const Lifetime* other) { return other->meets(*l); });
    const uint64_t bytes = aligned(l->storage->bytes);
    l->storage->offset = bestFit(neighbours, bytes);
    total = std::max(total, l->storage->offset + bytes);
    const auto after = std::upper_bound(placed.begin(), placed.end(), l, [](const Lifetime* a, const Lifetime* b) {
      return a->storage->offset < b->storage->offset;
    });
    placed.insert(after, l);
  }
  return total;
}

uint64_t planPacked(std::vector<Storage>& storages) {
  uint64_t total = 0;
  for (Storage& s : storages) {
    if (s.kind != Storage::packed) continue;
    s.offset = total;
    total += aligned(s.bytes);
  }
  return total;
}

}  // namespace ddpm
