#include "native/runtime/bank_sum.h"

#include <algorithm>
#include <string_view>

#include "native/runtime/sum_tree.h"

namespace ddpm {
namespace {

// Pieces of a bank as memory of the host.
class Host {
 public:
  Host(const Device& device, void* data, int64_t longest) : device_(device), data_(static_cast<float*>(data)) {
    if (!isOfHost(device)) staged_.resize(size_t(longest));
  }
  float* read(const Range& range) {
    if (staged_.empty()) return data_ + range.begin;
    Error error;
    if (!device_.backend().copyOut(device_.handle(), staged_.data(), data_ + range.begin, bytes(range), &error))
      throw toFailure(error);
    return staged_.data();
  }
  // What `read` gave, and was changed since.
  void write(const Range& range) {
    if (staged_.empty()) return;
    Error error;
    if (!device_.backend().copyIn(device_.handle(), data_ + range.begin, staged_.data(), bytes(range), &error))
      throw toFailure(error);
  }

 private:
  static size_t bytes(const Range& range) { return size_t(range.length()) * 4; }

  const Device& device_;
  float* const data_;
  std::vector<float> staged_;
};

void addUp(float* __restrict to, const float* __restrict from, int64_t length) {
  for (int64_t i = 0; i < length; ++i) to[i] += from[i];
}

class PieceSum {
 public:
  // Runs work on the world's thread.
  using Caller = std::function<void(const Device::Work&)>;

  PieceSum(HostWorld& world, const Summands& summands, Caller call)
      : world_(world), summands_(summands), call_(std::move(call)), parts_(summands.banks[0]->elements, world.size()) {
    for (int32_t r = 0; r < world.size(); ++r) {
      nodes_.push_back(nodesOf(r * summands.share, (r + 1) * summands.share));
      most_ = std::max(most_, nodes_.back().size());
    }
    for (const auto& bank : summands.banks) hosts_.emplace_back(*bank->device, bank->data, parts_.longestPiece());
    received_ = std::make_unique<std::vector<float>>(most_ * size_t(world.size() * parts_.longestOwn()));
  }

  void add(int64_t piece) {
    try {
      const Range range = parts_.piece(piece);
      std::vector<Given> own;
      for (size_t i = 0; i < hosts_.size(); ++i) own.push_back({summands_.nodes[i], hosts_[i].read(range)});
      own = joined(own, false, [&](float* to, const float* from) { addUp(to, from, range.length()); });
      const int64_t mine = parts_.own(piece, world_.rank()).length();
      const std::vector<Given> all =
          joined(exchange(piece, own), true, [&](float* to, const float* from) { addUp(to, from, mine); });
      put(piece, all[0].numbers);
    } catch (...) {
      (void)received_.release();  // what was begun and did not end may still write there
      throw;
    }
  }

 private:
  // What all ranks' nodes gave for this rank's part of the piece.
  std::vector<Given> exchange(int64_t piece, const std::vector<Given>& own) {
    const size_t ranks = size_t(world_.size());
    const int64_t length = parts_.own(piece, world_.rank()).length();
    std::vector<std::vector<Given>> given(ranks);
    for (size_t k = 0; k < most_; ++k) {
      std::vector<Part> sent(ranks), arriving(ranks);
      if (k < own.size()) sent = partsOf(parts_, piece, world_.size());
      float* const to = received_->data() + int64_t(k * ranks) * length;
      for (size_t r = 0; r < ranks; ++r) {
        if (k >= nodes_[r].size()) continue;
        arriving[r] = {r * size_t(length) * 4, size_t(length) * 4};
        given[r].push_back({nodes_[r][k], to + int64_t(r) * length});
      }
      const float* from = k < own.size() ? own[k].numbers : nullptr;
      call_([&] { world_.exchange(from, sent.data(), to, arriving.data()); });
    }
    std::vector<Given> all;
    for (const auto& some : given) all.insert(all.end(), some.begin(), some.end());
    return all;
  }

  // Puts this rank's part of the sum, and unless each keeps its own those of the others, where they belong.
  void put(int64_t piece, const float* own) {
    const Range range = parts_.piece(piece), mine = parts_.own(piece, world_.rank());
    float* const whole = hosts_.back().read(range);
    std::copy_n(own, mine.length(), whole + (mine.begin - range.begin));
    if (!summands_.keepsParts) {
      const std::vector<Part> parts = partsOf(parts_, piece, world_.size());
      call_([&] { world_.gather(whole, parts.data()); });
    }
    hosts_.back().write(range);
  }

  HostWorld& world_;
  const Summands& summands_;
  const Caller call_;
  const BankParts parts_;
  std::vector<std::vector<TreeNode>> nodes_;  // of each rank
  size_t most_ = 0;
  std::vector<Host> hosts_;
  std::unique_ptr<std::vector<float>> received_;
};

}  // namespace

bool isOfHost(const Device& device) { return std::string_view(device.backend().name) == "cpu"; }

void sumBanks(HostWorld& world, const Summands& summands) {
  PieceSum sum(world, summands, [&](const Device::Work& work) { world.call(work); });
  for (int64_t piece = 0; piece < BankParts(summands.banks[0]->elements, world.size()).pieces(); ++piece)
    sum.add(piece);
  for (const auto& bank : summands.banks) ++bank->version;
}

void gatherParts(HostWorld& world, const Device& device, const RankGather& op) {
  const BankParts parts(op.count, op.ranks);
  if (op.x.elements() == op.count) {
    Host host(device, op.x.data, parts.longestPiece());
    for (int64_t piece = 0; piece < parts.pieces(); ++piece) {
      const Range range = parts.piece(piece);
      float* const whole = host.read(range);
      const std::vector<Part> of = partsOf(parts, piece, op.ranks);
      world.call([&] { world.gather(whole, of.data()); });
      host.write(range);
    }
    return;
  }
  // One number for each part: those of a rank lie together only on their way.
  Host host(device, op.x.data, parts.parts());
  float* const numbers = host.read({0, parts.parts()});
  std::vector<float> sent(static_cast<size_t>(parts.parts()));
  std::vector<Part> of;
  const auto forAll = [&](const auto& each) {
    size_t at = 0;
    for (int32_t r = 0; r < op.ranks; ++r) {
      const size_t first = at;
      for (int64_t piece = 0; piece < parts.pieces(); ++piece) {
        const Range own = parts.ownParts(piece, r);
        each(numbers + own.begin, sent.data() + at, own.length());
        at += size_t(own.length());
      }
      if (of.size() < size_t(op.ranks)) of.push_back({first * 4, (at - first) * 4});
    }
  };
  forAll([](const float* number, float* packed, int64_t length) { std::copy_n(number, length, packed); });
  world.call([&] { world.gather(sent.data(), of.data()); });
  forAll([](float* number, const float* packed, int64_t length) { std::copy_n(packed, length, number); });
  host.write({0, parts.parts()});
}

OverlappedSum::OverlappedSum(std::shared_ptr<HostWorld> world, Summands summands, const std::vector<Outgoing>& order)
    : world_(std::move(world)), ended_(end_.get_future()) {
  const auto work = [this, summands = std::move(summands), order] {
    PieceSum sum(*world_, summands, [](const Device::Work& part) { part(); });
    for (const Outgoing& out : order) {
      waitFor(out.after);
      sum.add(out.piece);
    }
  };
  world_->submit(work, [this](Outcome outcome) { end_.set_value(std::move(outcome)); });
}

OverlappedSum::~OverlappedSum() {
  if (!ended_.valid()) return;
  {
    const std::lock_guard lock(mutex_);
    given_up_ = true;
    wake_.notify_all();
  }
  world_->abandon();
  ended_.wait();
}

void OverlappedSum::ready(int64_t steps) {
  const std::lock_guard lock(mutex_);
  done_ = steps;
  wake_.notify_all();
}

void OverlappedSum::waitFor(int64_t steps) {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return given_up_ || done_ >= steps; });
  if (given_up_) throw Failure("closed", "the step that this rank was at failed");
}

void OverlappedSum::wait() {
  const Outcome outcome = ended_.get();
  if (outcome) throw Failure(*outcome);
}

}  // namespace ddpm
