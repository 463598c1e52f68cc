// How a bank (a flat buffer of all parameters) is divided: into parts, of which each is one row of a sum of squares,
// and into pieces of some parts, in which every rank has parts of its own. Ranks exchange a piece at a time.
#pragma once
#include <algorithm>
#include <cstdint>

namespace ddpm {

struct Range {
  int64_t begin, end;
  int64_t length() const { return end - begin; }
};

class BankParts {
 public:
  BankParts(int64_t count, int32_t ranks) : count_(count) {
    length_ = std::max(kLeast, roundUp(divideUp(count, kMost), kAligned));
    parts_ = divideUp(count, length_);
    const int64_t most = std::max<int64_t>(1, kPiece / (length_ * ranks));  // parts of a rank
    pieces_ = divideUp(parts_, most * ranks);
    perRank_ = divideUp(parts_, pieces_ * ranks);
    pieces_ = divideUp(parts_, perRank_ * ranks);
    perPiece_ = perRank_ * ranks;
  }

  int64_t count() const { return count_; }
  // Elements of a part; the last may have fewer.
  int64_t partLength() const { return length_; }
  int64_t parts() const { return parts_; }
  int64_t pieces() const { return pieces_; }

  // Parts of a rank in a piece.
  Range ownParts(int64_t i, int32_t rank) const {
    const int64_t first = i * perPiece_ + rank * perRank_;
    return {std::min(first, parts_), std::min(first + perRank_, parts_)};
  }
  // Elements of the bank. A rank has none of a piece where there are fewer parts than ranks.
  Range piece(int64_t i) const { return elements(i * perPiece_, (i + 1) * perPiece_); }
  Range own(int64_t i, int32_t rank) const {
    const Range parts = ownParts(i, rank);
    return elements(parts.begin, parts.end);
  }
  // Of all pieces.
  int64_t ownLength(int32_t rank) const {
    int64_t sum = 0;
    for (int64_t i = 0; i < pieces_; ++i) sum += own(i, rank).length();
    return sum;
  }
  // The most elements that a piece has, and that one rank has of it.
  int64_t longestPiece() const { return std::min(perPiece_ * length_, count_); }
  int64_t longestOwn() const { return std::min(perRank_ * length_, count_); }

 private:
  // A part is at least what is worth a task of its own; a bank has at most so many; a piece is large enough to be worth
  // a message, and small enough that the first are under way long before the last is computed.
  static constexpr int64_t kLeast = 16384, kMost = 4096, kAligned = 16, kPiece = int64_t(1) << 20;

  static int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
  static int64_t roundUp(int64_t a, int64_t b) { return divideUp(a, b) * b; }
  Range elements(int64_t firstPart, int64_t endPart) const {
    return {std::min(firstPart * length_, count_), std::min(endPart * length_, count_)};
  }

  int64_t count_, length_, parts_, pieces_, perRank_, perPiece_;
};

}  // namespace ddpm
