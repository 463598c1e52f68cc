#include "native/runtime/device_sum.h"

#include <algorithm>

#include "native/runtime/sum_tree.h"

namespace ddpm {
namespace {

void check(const DeviceWorld& world, const Device& device) {
  if (&device == world.device().get()) return;
  throw Failure::argumentOf("run", "device", "the one that has joined the others", "another");
}

}  // namespace

class DeviceSum::Pieces {
 public:
  Pieces(DeviceWorld& world, const Summands& summands, float* scratch)
      : world_(world),
        device_(*world.device()),
        summands_(summands),
        scratch_(scratch),
        parts_(summands.banks[0]->elements, world.size()) {
    for (const auto& bank : summands.banks) check(world, *bank->device);
    for (int32_t r = 0; r < world.size(); ++r) {
      nodes_.push_back(nodesOf(r * summands.share, (r + 1) * summands.share));
      most_ = std::max(most_, nodes_.back().size());
    }
  }

  int64_t count() const { return parts_.pieces(); }

  void add(int64_t piece) {
    const Range range = parts_.piece(piece), mine = parts_.own(piece, world_.rank());
    std::vector<Given> own;
    for (size_t i = 0; i < summands_.banks.size(); ++i)
      own.push_back({summands_.nodes[i], at(*summands_.banks[i], range.begin)});
    own = joined(own, false, [&](float* to, const float* from) { addUp(to, from, range.length()); });
    const std::vector<Given> all = joined(exchange(piece, own, mine.length()), true,
                                          [&](float* to, const float* from) { addUp(to, from, mine.length()); });
    const Buffer& whole = *summands_.banks.back();
    copy(at(whole, mine.begin), all[0].numbers, mine.length());
    if (!summands_.keepsParts) world_.gatherThere(at(whole, range.begin), partsOf(parts_, piece, world_.size()).data());
  }

 private:
  // What all ranks' nodes gave for this rank's part of the piece, of that length.
  std::vector<Given> exchange(int64_t piece, const std::vector<Given>& own, int64_t length) {
    const size_t ranks = size_t(world_.size());
    std::vector<std::vector<Given>> given(ranks);
    for (size_t k = 0; k < most_; ++k) {
      std::vector<Part> sent(ranks), arriving(ranks);
      if (k < own.size()) sent = partsOf(parts_, piece, world_.size());
      float* const to = scratch_ + int64_t(k * ranks) * parts_.longestOwn();
      for (size_t r = 0; r < ranks; ++r) {
        if (k >= nodes_[r].size()) continue;
        float* const place = to + int64_t(r) * parts_.longestOwn();
        arriving[r] = {size_t(place - to) * 4, size_t(length) * 4};
        given[r].push_back({nodes_[r][k], place});
      }
      world_.exchangeThere(k < own.size() ? own[k].numbers : nullptr, sent.data(), to, arriving.data());
    }
    std::vector<Given> all;
    for (const auto& some : given) all.insert(all.end(), some.begin(), some.end());
    return all;
  }

  static float* at(const Buffer& buffer, int64_t element) { return reinterpret_cast<float*>(buffer.data) + element; }
  static Tensor flat(const float* numbers, int64_t length) {
    return {const_cast<float*>(numbers), 1, 1, 1, int32_t(length), int32_t(length), DType::f32};
  }

  void addUp(float* to, const float* from, int64_t length) {
    if (length == 0) return;
    Error error;
    const Add op = {flat(to, length), flat(from, length), flat(to, length)};
    if (!device_.backend().kAdd.run(device_.handle(), op, nullptr, &error)) throw toFailure(error);
  }
  void copy(float* to, const float* from, int64_t length) {
    if (length == 0) return;
    Error error;
    if (!device_.backend().copy(device_.handle(), to, from, size_t(length) * 4, &error)) throw toFailure(error);
  }

  DeviceWorld& world_;
  Device& device_;
  const Summands summands_;
  float* const scratch_;
  const BankParts parts_;
  std::vector<std::vector<TreeNode>> nodes_;  // of each rank
  size_t most_ = 0;
};

DeviceSum::DeviceSum(DeviceWorld& world, const Summands& summands, const std::vector<Outgoing>& order, float* scratch)
    : world_(world), order_(order), pieces_(std::make_unique<Pieces>(world, summands, scratch)) {}

DeviceSum::~DeviceSum() {
  if (finished_) return;
  try {
    world_.awaitAside();
  } catch (const Failure&) {
    // What ended it is reported.
  }
}

void DeviceSum::ready(int64_t steps) {
  if (next_ == order_.size() || order_[next_].after > steps) return;
  const DeviceWorld::Aside aside(world_);
  for (; next_ < order_.size() && order_[next_].after <= steps; ++next_) pieces_->add(order_[next_].piece);
}

void DeviceSum::finish() {
  world_.awaitAside();
  finished_ = true;
}

void sumBanks(DeviceWorld& world, const Summands& summands) {
  Device& device = *world.device();
  const int32_t count = int32_t(summands.banks.back()->elements);
  const RankSum op = {.grads = {nullptr, 1, 1, 1, count, count, DType::f32},
                      .rank = world.rank(),
                      .ranks = world.size(),
                      .share = summands.share,
                      .keepsParts = summands.keepsParts};
  const std::unique_ptr<void, std::function<void(void*)>> scratch(device.allocate(sumScratchBytes(op)),
                                                                  [&](void* memory) { device.release(memory); });
  DeviceSum::Pieces sum(world, summands, static_cast<float*>(scratch.get()));
  for (int64_t piece = 0; piece < sum.count(); ++piece) sum.add(piece);
  world.countSent(sentBytes(op));
  Error error;
  if (!device.backend().synchronize(device.handle(), &error)) throw toFailure(error);
  for (const auto& bank : summands.banks) ++bank->version;
}

void enqueueGather(DeviceWorld& world, const Device& device, const RankGather& op) {
  check(world, device);
  const BankParts parts(op.count, op.ranks);
  const bool isWhole = op.x.elements() == op.count;  // else one number for each part
  for (int64_t piece = 0; piece < parts.pieces(); ++piece) {
    std::vector<Part> of;
    for (int32_t r = 0; r < op.ranks; ++r) {
      const Range own = isWhole ? parts.own(piece, r) : parts.ownParts(piece, r);
      of.push_back({size_t(own.begin) * 4, size_t(own.length()) * 4});
    }
    world.gatherThere(op.x.data, of.data());
  }
}

}  // namespace ddpm
