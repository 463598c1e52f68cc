#include "native/runtime/stored_numbers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>

namespace ddpm {
namespace {

Failure ioFailure(int error) { return {"io", std::strerror(error)}; }

}  // namespace

InputFile::InputFile(int32_t descriptor) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  struct stat status;
  if (descriptor_ >= 0 && fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode)) return;
  const int error = errno;
  const bool isNone = descriptor_ >= 0 || error == EBADF || error == EINVAL;
  if (descriptor_ >= 0) close(descriptor_);
  if (!isNone) throw ioFailure(error);
  throw Failure::argumentOf("load", "file", "the descriptor of a regular file", std::to_string(descriptor));
}

InputFile::~InputFile() { close(descriptor_); }

void InputFile::read(void* to, size_t bytes, uint64_t position) const {
  char* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(descriptor_, at, bytes, off_t(position));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw ioFailure(errno);
    if (n == 0) throw Failure("bad-file", "it became shorter while it was read");
    at += n;
    position += uint64_t(n);
    bytes -= size_t(n);
  }
}

namespace {

size_t widthOf(FileDType dtype) {
  switch (dtype) {
    case FileDType::f64:
      return 8;
    case FileDType::f32:
      return 4;
    default:
      return 2;
  }
}

void convert(FileDType dtype, const void* from, float* to, size_t n) {
  if (dtype == FileDType::f32) {
    std::memcpy(to, from, n * 4);
  } else if (dtype == FileDType::f64) {
    const double* numbers = static_cast<const double*>(from);
    for (size_t i = 0; i < n; ++i) to[i] = float(numbers[i]);
  } else if (dtype == FileDType::bf16) {
    // The upper half of a float32.
    const uint16_t* numbers = static_cast<const uint16_t*>(from);
    for (size_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(uint32_t(numbers[i]) << 16);
  } else {
    const uint16_t* numbers = static_cast<const uint16_t*>(from);
    for (size_t i = 0; i < n; ++i) to[i] = halfToFloat(numbers[i]);
  }
}

int64_t product(const std::array<int64_t, 4>& axes, size_t first = 0) {
  int64_t n = 1;
  for (size_t i = first; i < axes.size(); ++i) n *= axes[i];
  return n;
}

bool keepsOrder(const StoredNumbers& t) {
  int32_t last = -1;
  for (int32_t axis : t.order) {
    if (t.axes[axis] == 1) continue;
    if (axis < last) return false;
    last = axis;
  }
  return true;
}

// `axes`: of what is at hand, of the tensor's first axis perhaps a part.
void reorder(const float* from, float* to, const std::array<int64_t, 4>& axes, const std::array<int32_t, 4>& order) {
  std::array<int64_t, 4> counts, strides;
  for (size_t i = 0; i < 4; ++i) {
    counts[i] = axes[order[i]];
    strides[i] = product(axes, size_t(order[i]) + 1);
  }
  for (int64_t a = 0; a < counts[0]; ++a)
    for (int64_t b = 0; b < counts[1]; ++b)
      for (int64_t c = 0; c < counts[2]; ++c) {
        const float* row = from + a * strides[0] + b * strides[1] + c * strides[2];
        for (int64_t d = 0; d < counts[3]; ++d) *to++ = row[d * strides[3]];
      }
}

class Reader final : public PieceSource::Maker {
 public:
  Reader(std::shared_ptr<const InputFile> file, const std::vector<StoredSource::Part>& parts)
      : file_(std::move(file)), parts_(parts) {}

  void make(size_t piece, float* out) override {
    const auto& [tensor, firstRow, rows] = parts_[piece];
    const int64_t row = product(tensor->axes, 1);
    const size_t n = size_t(row * rows), width = widthOf(tensor->dtype);
    const uint64_t position = tensor->position + uint64_t(firstRow * row) * width;
    const bool isPlain = keepsOrder(*tensor);
    float* numbers = isPlain ? out : sized(numbers_, n);
    if (tensor->dtype == FileDType::f32) {
      file_->read(numbers, n * 4, position);
    } else {
      double* raw = sized(raw_, (n * width + 7) / 8);  // aligned for all of them
      file_->read(raw, n * width, position);
      convert(tensor->dtype, raw, numbers, n);
    }
    if (!isPlain) reorder(numbers, out, {rows, tensor->axes[1], tensor->axes[2], tensor->axes[3]}, tensor->order);
  }

 private:
  template <class T>
  static T* sized(std::vector<T>& memory, size_t n) {
    if (memory.size() < n) memory.resize(n);
    return memory.data();
  }

  const std::shared_ptr<const InputFile> file_;
  const std::vector<StoredSource::Part>& parts_;
  std::vector<float> numbers_;
  std::vector<double> raw_;
};

}  // namespace

StoredSource::StoredSource(std::shared_ptr<const InputFile> file, std::vector<StoredNumbers> tensors)
    : file_(std::move(file)), tensors_(std::move(tensors)) {
  for (const StoredNumbers& tensor : tensors_) {
    // Where the first axis stays the first, its rows lie one after the other in both; else all is one piece.
    const bool isCut = tensor.order[0] == 0 || keepsOrder(tensor);
    const int64_t row = product(tensor.axes, 1);
    // Whole rows here, and there of those that have a factor.
    const int64_t unit = std::lcm(row, tensor.place.unit());
    const int64_t most = isCut ? pieceOf(unit) / row : tensor.axes[0];
    for (int64_t first = 0; first < tensor.axes[0]; first += most) {
      const int64_t rows = std::min(most, tensor.axes[0] - first);
      parts_.push_back({&tensor, first, rows});
      pieces_.push_back({&tensor.place, first * row, rows * row});
    }
  }
}

std::unique_ptr<PieceSource::Maker> StoredSource::maker() const { return std::make_unique<Reader>(file_, parts_); }

}  // namespace ddpm
