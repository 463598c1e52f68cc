// Products of operands that are rounded to bf16, with sums in float32: what an implementation offers. There are three,
// of which one is chosen once a process (choose.h):
//   portable     plain C++: by definition the arithmetic of AMX's TDPBF16PS, which the others are compared with
//   avx512bf16   VDPBF16PS of AVX512-BF16
//   amx          AMX's tiles; `amx-emulated` is the same code on an emulation of its instructions
// (NEON's BFMMLA would be one more file here: panels of pairs are what it wants, too, two columns at a time.)
//
// The depth goes in pairs: an operand's elements 2p and 2p + 1 are one 32-bit word, the even one in its lower half.
//   rows     [row][pair]: elements as they are, one after the other; each row has its own address
//   panel    [pair][width]: kColumns columns, or kNarrow of them
// Both are filled up with zeros to whole steps of the kernel. Numbers are rounded to nearest even. Those below 2^-126
// count as 0 wherever they come up, as these instructions have it.
#pragma once
#include "kernels/ops.h"

namespace ddpm::cpu::bf16 {

constexpr int kColumns = 32, kNarrow = 16;
constexpr int kMaxRows = 32;  // of a tile of any implementation

// Numbers of any format of weights (ops.h): element i of row r is data[r * ld + i], times scale[r] where it is i8.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t ld;
  const float* scale;
};

// sums[r][i] = (adds ? sums[r][i] : 0) + rows[r] . column i of the panel; sums is [rows][kColumns].
struct Product {
  const uint32_t* const* rows;
  int count;  // of rows, at most Kernel::rows
  const uint32_t* panel;
  int width;      // kColumns or kNarrow
  int64_t pairs;  // a multiple of Kernel::step
  bool adds;
  float* sums;
  int64_t ahead;  // so many words behind what is read of the panel, memory is asked for that is read next
};

struct Kernel {
  const char* name;
  int rows;      // of a tile
  int step;      // pairs that a sum is cut into
  double speed;  // multiply-adds in the time of one of float32, for choices; portable: as if it were AVX512-BF16

  // The first `pairs` pairs of a row of `depth` numbers, times `factor`.
  void (*round)(const float* from, int64_t depth, float factor, int64_t pairs, uint32_t* to);
  // A panel whose column i is row i of `from`, or with `transposed` column i: `columns` of them, of `depth` numbers.
  // Meanwhile what lies `ahead` elements behind each number is asked for.
  void (*pack)(const Matrix& from, bool transposed, int columns, int64_t depth, int64_t pairs, int width, uint32_t* to,
               int64_t ahead);
  void (*multiply)(const Product&);

  int64_t pairsOf(int64_t depth) const { return ((depth + 1) / 2 + step - 1) / step * step; }
};

}  // namespace ddpm::cpu::bf16
