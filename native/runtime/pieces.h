// Numbers of a buffer that are made on the host, a piece at a time: read from a file, drawn, or of an array. Several
// threads make pieces and bring them into the format of their place, the device's thread makes some of its own and
// copies all of them in, so that beside the buffer there are a few pieces, whatever its size.
#pragma once
#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "native/runtime/buffer.h"
#include "native/runtime/weight_formats.h"

namespace ddpm {

// What the pieces are of. Those of a Maker are used by one thread.
class PieceSource {
 public:
  struct Piece {
    const Place* place;
    int64_t first, length;  // of its numbers; a multiple of Place::unit
  };
  class Maker {
   public:
    virtual ~Maker() = default;
    // Writes `length` numbers. Throws Failure.
    virtual void make(size_t piece, float* out) = 0;
  };

  virtual ~PieceSource() = default;
  const std::vector<Piece>& pieces() const { return pieces_; }
  virtual std::unique_ptr<Maker> maker() const = 0;

 protected:
  // Numbers: small enough to stay in a core's cache between being made and being copied.
  static constexpr int64_t kPiece = int64_t(1) << 18;
  // As many as that, in multiples of `unit`.
  static int64_t pieceOf(int64_t unit) { return std::max<int64_t>(kPiece / unit, 1) * unit; }
  std::vector<Piece> pieces_;
};

class PieceFiller {
 public:
  // The pieces lie within the buffer. `threads`: with the device's.
  PieceFiller(std::shared_ptr<Buffer> target, std::unique_ptr<PieceSource> source, int32_t threads);
  ~PieceFiller();
  PieceFiller(const PieceFiller&) = delete;
  PieceFiller& operator=(const PieceFiller&) = delete;

  // On the device's thread: a part of the work; true: there is more. Throws what makers throw, and closed.
  bool next();

 private:
  struct Made {
    size_t piece;
    std::vector<float> numbers;
    // The same in the format of their place, where that is not float32.
    std::vector<char> held;
    std::vector<float> scales;
  };

  void help();
  void make(PieceSource::Maker& maker, Made& made) const;
  void copyIn(const Made& made);

  const std::shared_ptr<Buffer> target_;
  const std::unique_ptr<PieceSource> source_;
  const size_t helpers_;

  std::mutex mutex_;
  std::condition_variable free_, made_;
  size_t taken_ = 0;       // pieces that somebody makes or has made
  size_t unfinished_ = 0;  // those of them that helpers have, made or not
  std::deque<Made> ready_;
  std::vector<Made> spare_;
  std::exception_ptr failed_;
  bool stopped_ = false;

  std::unique_ptr<PieceSource::Maker> own_;
  Made mine_;
  std::vector<std::thread> threads_;
};

// The pieces of an array.
class ArraySource final : public PieceSource {
 public:
  ArraySource(std::vector<float> numbers, Place place);
  std::unique_ptr<Maker> maker() const override;

 private:
  const std::vector<float> numbers_;
  const Place place_;
};

// How many threads make pieces for a device: all that it has, where it is the CPU, else no more than help.
int32_t fillingThreads(const Device& device);

}  // namespace ddpm
