#include "native/runtime/bank_sum.h"

#include <algorithm>
#include <memory>
#include <string_view>

namespace ddpm {
namespace {

// Elements that are under way at a time, of one node of all ranks.
constexpr int64_t kPiece = int64_t(1) << 20;
constexpr int64_t kAligned = 16;

// Pieces of a bank as memory of the host.
class Host {
 public:
  explicit Host(const Buffer& buffer) : buffer_(buffer) {
    const std::string_view name = buffer.device->backend().name;
    direct_ = name == "cpu";
    if (!direct_) staged_.resize(size_t(std::min(kPiece, buffer.elements)));
  }
  float* read(int64_t offset, int64_t length) {
    if (direct_) return reinterpret_cast<float*>(buffer_.data) + offset;
    buffer_.copyOut(staged_.data(), offset, length);
    return staged_.data();
  }
  void write(Buffer& buffer, const float* from, int64_t offset, int64_t length) {
    if (direct_)
      ++buffer.version;
    else
      buffer.copyIn(from, offset, length);
  }

 private:
  const Buffer& buffer_;
  bool direct_;
  std::vector<float> staged_;
};

void add(float* __restrict to, const float* __restrict from, int64_t length) {
  for (int64_t i = 0; i < length; ++i) to[i] += from[i];
}

// Adds up the nodes, each `length` numbers at `numbers`, into the first.
struct Given {
  TreeNode node;
  float* numbers;
};
void addTree(const std::vector<Given>& given, int64_t length) {
  std::vector<Given> open;
  const auto join = [&] {
    const Given right = open.back();
    open.pop_back();
    add(open.back().numbers, right.numbers, length);
    open.back().node.end = right.node.end;
  };
  for (const Given& next : given) {
    open.push_back(next);
    while (open.size() > 1 && open[open.size() - 2].node.joins(open.back().node)) join();
  }
  // What is left where the micro-batches are no power of two.
  while (open.size() > 1) join();
}

}  // namespace

std::vector<TreeNode> nodesOf(int64_t first, int64_t end) {
  std::vector<TreeNode> nodes;
  while (first < end) {
    int64_t size = 1;
    while (first % (2 * size) == 0 && first + 2 * size <= end) size *= 2;
    nodes.push_back({first, first + size});
    first += size;
  }
  return nodes;
}

void sumBanks(World& world, const std::vector<std::shared_ptr<Buffer>>& banks, int64_t share) {
  const int32_t size = world.size(), rank = world.rank();
  std::vector<std::vector<TreeNode>> nodes;
  size_t most = 0;
  for (int32_t r = 0; r < size; ++r) {
    nodes.push_back(nodesOf(r * share, (r + 1) * share));
    most = std::max(most, nodes.back().size());
  }
  if (banks.size() != nodes[size_t(rank)].size())
    throw Failure::argumentOf("sumBanks", "banks", std::to_string(nodes[size_t(rank)].size()),
                              std::to_string(banks.size()));
  const int64_t count = banks[0]->elements, piece = std::min(count, kPiece);
  std::vector<Host> hosts;
  for (const auto& bank : banks) hosts.emplace_back(*bank);
  auto received = std::make_unique<std::vector<float>>(most * size_t(size) * size_t(piece / size + kAligned));

  try {
    for (int64_t begin = 0; begin < count; begin += piece) {
      const int64_t length = std::min(piece, count - begin);
      // Rank r adds up its segment of the piece.
      const auto edge = [&](int64_t r) {
        return std::min((length * r / size + kAligned - 1) / kAligned * kAligned, length);
      };
      const auto segment = [&](int64_t r) { return edge(r + 1) - edge(r); };
      const int64_t own = segment(rank);
      std::vector<std::vector<Given>> given(static_cast<size_t>(size));
      for (size_t k = 0; k < most; ++k) {
        std::vector<Part> sent(static_cast<size_t>(size)), arriving(static_cast<size_t>(size));
        float* const to = received->data() + int64_t(k) * size * own;
        for (int32_t r = 0; r < size; ++r) {
          if (k < banks.size()) sent[size_t(r)] = {size_t(edge(r)) * 4, size_t(segment(r)) * 4};
          if (k >= nodes[size_t(r)].size()) continue;
          arriving[size_t(r)] = {size_t(r * own) * 4, size_t(own) * 4};
          given[size_t(r)].push_back({nodes[size_t(r)][k], to + r * own});
        }
        const float* from = k < banks.size() ? hosts[k].read(begin, length) : nullptr;
        world.call([&] { world.exchange(from, sent.data(), to, arriving.data()); });
      }
      std::vector<Given> all;
      for (const auto& some : given) all.insert(all.end(), some.begin(), some.end());
      addTree(all, own);

      float* const whole = hosts[0].read(begin, length);
      std::copy_n(all[0].numbers, own, whole + edge(rank));
      std::vector<Part> parts;
      for (int32_t r = 0; r < size; ++r) parts.push_back({size_t(edge(r)) * 4, size_t(segment(r)) * 4});
      world.call([&] { world.gather(whole, parts.data()); });
      hosts[0].write(*banks[0], whole, begin, length);
    }
  } catch (...) {
    (void)received.release();  // what was begun and did not end may still write there
    throw;
  }
}

}  // namespace ddpm
