#include "native/graph/placement.h"

#include <algorithm>
#include <cstring>

#include "native/graph/op.h"

namespace ddpm {
namespace {

bool isNamed(const Node& node, const char* op) { return std::strcmp(node.op->name, op) == 0; }
bool isSource(const Node& node) {
  return isNamed(node, "input") || isNamed(node, "parameter") || isNamed(node, "mirror");
}

}  // namespace

Placement::Placement(const Region& region)
    : region_(region),
      graph_(region.graph),
      used_(graph_.values().size()),
      lastUse_(graph_.values().size(), -1),
      alias_(graph_.values().size()),
      storageOf_(graph_.values().size(), -1),
      offsetOf_(graph_.values().size()),
      members_(graph_.values().size()) {
  for (int32_t place = 0; place < int32_t(region.live.size()); ++place) {
    const Node& node = graph_.node(region.live[place]);
    for (ValueId v : node.inputs) {
      if (v == kAbsent) continue;
      used_[v] = true;
      lastUse_[v] = place;
    }
    // What is written is alive while its node runs, whether or not anyone reads it.
    for (ValueId v : node.outputs) lastUse_[v] = std::max(lastUse_[v], place);
  }
  for (const auto& [name, v] : region.outputs) {
    used_[v] = true;
    lastUse_[v] = INT32_MAX;
  }
  placeOutputs();
  placeConcats();
  placeSlices();
  placeInPlace();
  placeRest();
}

// Sources and outputs live in the buffers that are bound by their names. An output that is a source, a slice, narrow or
// the same as another output is copied at the end (compile.cpp).
void Placement::placeOutputs() {
  for (int32_t i : region_.live) {
    const Node& node = graph_.node(i);
    if (!isSource(node)) continue;
    const ValueId v = node.outputs[0];
    if (isNamed(node, "parameter")) {
      offsetOf_[v] = uint64_t(node.attributes.integer("offset")) * 4;
      storageOf_[v] = external(graph_.bankOf(v), offsetOf_[v] + bytes(v));
    } else if (isNamed(node, "mirror")) {
      placeInMirror(v);
    } else {
      storageOf_[v] = external(node.attributes.string("name"), bytes(v));
    }
  }
  for (const auto& [name, v] : region_.outputs) {
    const uint32_t storage = external(name, uint64_t(elements(graph_.value(v).dims)) * 4);
    const bool isF32 = graph_.value(v).dtype == DType::f32;
    if (isF32 && storageOf_[v] < 0 && !isNamed(graph_.producer(v), "slice")) storageOf_[v] = storage;
  }
}

// At the parameter's place in the bank; as large as the furthest of its uses.
void Placement::placeInMirror(ValueId v) {
  const ValueId of = graph_.producer(v).inputs[0];
  const Node& parameter = graph_.producer(of);
  mirrorDType_ = graph_.value(v).dtype;
  const std::string bank = graph_.bankOf(of);
  if (!mirrors_.count(bank)) mirrors_[bank] = addStorage({Storage::packed, 0, "mirror"});
  storageOf_[v] = mirrors_[bank];
  offsetOf_[v] = uint64_t(parameter.attributes.integer("offset")) * sizeOf(mirrorDType_);
  uint64_t& size = storages_[mirrors_[bank]].bytes;
  size = std::max(size, offsetOf_[v] + bytes(v));
}

Tensor Placement::mirror(const std::string& bank, int32_t atLeast) {
  const auto found = mirrors_.find(bank);
  if (found == mirrors_.end()) return {};
  uint64_t& size = storages_[found->second].bytes;
  size = std::max(size, uint64_t(atLeast) * sizeOf(mirrorDType_));
  const int32_t count = int32_t(size / sizeOf(mirrorDType_));
  return {encode({found->second, 0}), 1, 1, 1, count, count, mirrorDType_};
}

// The parts of a concatenation are written where they belong, unless they have a place already. What was given other
// dims stays dense: its elements lie in one row.
void Placement::placeConcats() {
  for (int32_t i : region_.live) {
    const Node& node = graph_.node(i);
    if (!isNamed(node, "concat") || storageOf_[node.outputs[0]] >= 0) continue;
    int32_t start = 0;
    for (ValueId v : node.inputs) {
      if (storageOf_[v] < 0 && alias_[v].of == kAbsent && sameDType(v, node.outputs[0]) &&
          !isNamed(graph_.producer(v), "slice") && !isNamed(graph_.producer(v), "reshape")) {
        alias_[v] = {node.outputs[0], start};
      }
      start += graph_.value(v).dims[3];
    }
  }
}

void Placement::placeSlices() {
  for (int32_t i : region_.live) {
    const Node& node = graph_.node(i);
    if (!isNamed(node, "slice")) continue;
    alias_[node.outputs[0]] = {node.inputs[0], int32_t(node.attributes.integer("start"))};
  }
}

void Placement::placeInPlace() {
  for (int32_t i : region_.live) {
    for (ValueId v : graph_.node(i).outputs) members_[root(v).value].push_back(v);
  }
  for (int32_t place = 0; place < int32_t(region_.live.size()); ++place) {
    const Node& node = graph_.node(region_.live[place]);
    for (const auto& [output, input] : node.op->inPlace) {
      if (size_t(input) >= node.inputs.size() || node.inputs[input] == kAbsent) continue;
      const ValueId y = node.outputs[output], x = node.inputs[input];
      if (storageOf_[y] >= 0 || alias_[y].of != kAbsent || graph_.value(x).dims != graph_.value(y).dims) continue;
      if (!sameDType(x, y) || !canOverwrite(place, x)) continue;
      alias_[y] = {x, 0};
      std::vector<ValueId>& all = members_[root(x).value];
      all.insert(all.end(), members_[y].begin(), members_[y].end());
      members_[y].clear();
    }
  }
}

// Whether the live node at this place, the last to read x, may write there: no other value that lives in the same
// channels is needed.
bool Placement::canOverwrite(int32_t place, ValueId x) const {
  const std::vector<ValueId>& inputs = graph_.node(region_.live[place]).inputs;
  if (lastUse_[x] != place || std::count(inputs.begin(), inputs.end(), x) != 1) return false;
  const Root at = root(x);
  if (storageOf_[at.value] >= 0) return false;
  const int32_t begin = at.channel, end = begin + graph_.value(x).dims[3];
  for (ValueId other : members_[at.value]) {
    const int32_t channel = root(other).channel;
    const bool overlaps = channel < end && begin < channel + graph_.value(other).dims[3];
    if (other != x && overlaps && lastUse_[other] >= place) return false;
  }
  return true;
}

void Placement::placeRest() {
  for (int32_t i : region_.live) {
    for (ValueId v : graph_.node(i).outputs) {
      if (storageOf_[v] >= 0 || alias_[v].of != kAbsent) continue;
      storageOf_[v] = addStorage({Storage::arena, bytes(v), ""});
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

uint64_t Placement::bytes(ValueId v) const {
  const Value& value = graph_.value(v);
  return uint64_t(elements(value.dims)) * sizeOf(value.dtype);
}

Placement::Root Placement::root(ValueId v) const {
  Root r = {v, 0};
  while (alias_[r.value].of != kAbsent) {
    r.channel += alias_[r.value].channel;
    r.value = alias_[r.value].of;
  }
  return r;
}

Tensor Placement::tensor(ValueId v) const {
  const Root r = root(v);
  if (storageOf_[r.value] < 0) return {};
  const Value& value = graph_.value(v);
  const Dims& d = value.dims;
  void* address =
      encode({uint32_t(storageOf_[r.value]), offsetOf_[r.value] + uint64_t(r.channel) * sizeOf(value.dtype)});
  return {address, d[0], d[1], d[2], d[3], graph_.value(r.value).dims[3], value.dtype};
}

Tensor Placement::bank(const std::string& name, int64_t offset, Dims d) {
  const uint32_t storage = external(name, uint64_t(offset + elements(d)) * 4);
  return {encode({storage, uint64_t(offset) * 4}), d[0], d[1], d[2], d[3], d[3], DType::f32};
}

bool Placement::isPartOf(ValueId part, ValueId whole, int32_t start) const {
  const Root a = root(part), b = root(whole);
  return a.value == b.value && a.channel == b.channel + start;
}

uint32_t Placement::addStorage(Storage storage) {
  storages_.push_back(std::move(storage));
  return uint32_t(storages_.size() - 1);
}

// A binding is as large as the furthest of its uses.
uint32_t Placement::external(const std::string& name, uint64_t bytes) {
  const auto [found, isNew] = externals_.emplace(name, uint32_t(storages_.size()));
  if (isNew) return addStorage({Storage::external, bytes, name});
  uint64_t& size = storages_[found->second].bytes;
  size = std::max(size, bytes);
  return found->second;
}

}  // namespace ddpm
