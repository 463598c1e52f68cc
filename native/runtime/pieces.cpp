#include "native/runtime/pieces.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include "native/runtime/address_space.h"

namespace ddpm {
namespace {

// Bytes that are copied before other jobs of the device have their turn.
constexpr int64_t kTurn = int64_t(32) << 20;
constexpr uint64_t kThreadBytes = uint64_t(8) << 20;
constexpr int32_t kMaxThreads = 8;

}  // namespace

int32_t fillingThreads(const Device& device) {
  const bool isHost = std::string_view(device.backend().name) == "cpu";
  const int32_t threads = isHost ? device.info().threads : int32_t(std::thread::hardware_concurrency());
  return std::clamp(threads, 1, kMaxThreads);  // more would wait for memory
}

PieceFiller::PieceFiller(std::shared_ptr<Buffer> target, std::unique_ptr<PieceSource> source, int32_t threads)
    : target_(std::move(target)),
      source_(std::move(source)),
      helpers_(std::min(size_t(threads - 1), source_->pieces().size() / 2)) {
  leaveRoom(helpers_ * kThreadBytes);
}

PieceFiller::~PieceFiller() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    free_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool PieceFiller::next() {
  if (!own_) {
    own_ = source_->maker();
    try {
      for (size_t i = 0; i < 2 * helpers_; ++i) spare_.emplace_back();
      for (size_t i = 0; i < helpers_; ++i) threads_.emplace_back([this] { help(); });
    } catch (const std::system_error&) {
      // Those that could be started do it, or this one alone.
    }
  }
  const size_t count = source_->pieces().size();
  for (int64_t bytes = 0; bytes < kTurn;) {
    target_->device->checkOpen();
    std::unique_lock lock(mutex_);
    if (failed_) std::rethrow_exception(failed_);
    if (ready_.empty() && taken_ < count) {
      mine_.piece = taken_++;
      lock.unlock();
      make(*own_, mine_);
      copyIn(mine_);
      bytes += int64_t(mine_.numbers.size()) * 4;
      continue;
    }
    if (ready_.empty()) {
      if (unfinished_ == 0) return false;
      made_.wait(lock);
      continue;
    }
    Made made = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    copyIn(made);
    bytes += int64_t(made.numbers.size()) * 4;
    lock.lock();
    --unfinished_;
    spare_.push_back(std::move(made));
    free_.notify_one();
  }
  return true;
}

void PieceFiller::help() {
  const size_t count = source_->pieces().size();
  std::unique_lock lock(mutex_);
  try {
    lock.unlock();
    const auto maker = source_->maker();
    lock.lock();
    for (;;) {
      free_.wait(lock, [&] { return stopped_ || taken_ == count || !spare_.empty(); });
      if (stopped_ || taken_ == count) break;
      Made made = std::move(spare_.back());
      spare_.pop_back();
      made.piece = taken_++;
      ++unfinished_;
      lock.unlock();
      make(*maker, made);
      lock.lock();
      ready_.push_back(std::move(made));
      made_.notify_one();
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    failed_ = std::current_exception();
  }
  free_.notify_all();
  made_.notify_one();
}

void PieceFiller::make(PieceSource::Maker& maker, Made& made) const {
  const auto& [place, first, length] = source_->pieces()[made.piece];
  made.numbers.resize(size_t(length));
  maker.make(made.piece, made.numbers.data());
  if (place->format == DType::f32) return;
  made.held.resize(size_t(length) * sizeOf(place->format));
  made.scales.resize(size_t(place->format == DType::i8 ? length / place->row : 0));
  narrow(*place, made.numbers.data(), length, made.held.data(), made.scales.data());
}

void PieceFiller::copyIn(const Made& made) {
  const auto& [place, first, length] = source_->pieces()[made.piece];
  const bool isNarrow = place->format != DType::f32;
  const void* const held = isNarrow ? static_cast<const void*>(made.held.data()) : made.numbers.data();
  const int64_t width = int64_t(sizeOf(place->format));
  target_->copyBytesIn(held, place->offset * 4 + first * width, length * width);
  if (place->format == DType::i8)
    target_->copyIn(made.scales.data(), place->scales + first / place->row, int64_t(made.scales.size()));
}

namespace {

class Copier final : public PieceSource::Maker {
 public:
  Copier(const std::vector<float>& numbers, const std::vector<PieceSource::Piece>& pieces)
      : numbers_(numbers), pieces_(pieces) {}

  void make(size_t piece, float* out) override {
    std::copy_n(numbers_.data() + pieces_[piece].first, pieces_[piece].length, out);
  }

 private:
  const std::vector<float>& numbers_;
  const std::vector<PieceSource::Piece>& pieces_;
};

}  // namespace

ArraySource::ArraySource(std::vector<float> numbers, Place place)
    : numbers_(std::move(numbers)), place_(std::move(place)) {
  const int64_t most = pieceOf(place_.unit());
  for (int64_t first = 0; first < place_.length; first += most)
    pieces_.push_back({&place_, first, std::min(most, place_.length - first)});
}

std::unique_ptr<PieceSource::Maker> ArraySource::maker() const { return std::make_unique<Copier>(numbers_, pieces_); }

}  // namespace ddpm
