// Tensors as they lie in a file, on their way to a buffer: made float32, in the order that the buffer has them in.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "native/runtime/pieces.h"

namespace ddpm {

enum class FileDType : int32_t { f32, f16, bf16, f64 };

struct StoredNumbers {
  uint64_t position;  // of the first, in bytes of the file
  FileDType dtype;
  Place place;
  std::array<int64_t, 4> axes;   // in the file, the last without gaps
  std::array<int32_t, 4> order;  // the axes in the order of the buffer
};

// A file that is read at given positions, whoever else reads it.
class InputFile {
 public:
  // Has a descriptor of its own of the same file. Throws invalid-argument for what is no regular file's descriptor, and
  // io.
  explicit InputFile(int32_t descriptor);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Throws io, and bad-file where the file has become shorter.
  void read(void* to, size_t bytes, uint64_t position) const;

 private:
  int descriptor_;
};

// The tensors of a file. Their ranges and orders were checked: 1 or more elements each, `order` a permutation.
//
// The file is read by pread, not mapped: a mapped file that somebody shortens kills the process with SIGBUS, and its
// pages would count as this process' memory beside the buffer's until they are given back.
class StoredSource final : public PieceSource {
 public:
  StoredSource(std::shared_ptr<const InputFile> file, std::vector<StoredNumbers> tensors);
  std::unique_ptr<Maker> maker() const override;

  // Rows of a tensor's first axis.
  struct Part {
    const StoredNumbers* tensor;
    int64_t firstRow, rows;
  };

 private:
  const std::shared_ptr<const InputFile> file_;
  const std::vector<StoredNumbers> tensors_;
  std::vector<Part> parts_;
};

}  // namespace ddpm
