// The matrix product of a warp, from the fragments that its lanes hold.
#pragma once
#include "kernels/cuda/host/grid.h"
#include "kernels/cuda/host/tensor_core.h"
#include "kernels/cuda/vec.h"

namespace ddpm::cuda::host {

// mma.sync m16n8k16; see ptx.cuh for who holds what. pair(word) gives the two numbers of a word.
template <class Pair>
void multiplyAdd(Vec<float, 4>& d, const Vec<uint32_t, 4>& a, const Vec<uint32_t, 2>& b, Where where, Pair pair) {
  struct Operands {
    Vec<float, 2> a[4], b[2];  // unpacked once, by the lane that holds them
  };
  Operands mine;
  for (int i = 0; i < 4; ++i) mine.a[i] = pair(a.v[i]);
  for (int i = 0; i < 2; ++i) mine.b[i] = pair(b.v[i]);
  const std::byte* lanes = meetWarp(~0u, &mine, sizeof mine, false, where);
  const int g = laneNumber() / 4, t = laneNumber() % 4;
  const auto operands = [&](int lane) { return reinterpret_cast<const Operands*>(lanes + lane * Warp::kSlot); };
  float rows[2][16], columns[2][16];  // rows g and g + 8 of a, columns 2 t and 2 t + 1 of b
  for (int half = 0; half < 2; ++half)
    for (int holder = 0; holder < 4; ++holder) {  // of k = 8 * half + 2 * holder + i, in every group of four lanes
      const Operands& left = *operands(g * 4 + holder);
      for (int i = 0; i < 2; ++i) {
        const int k = 8 * half + 2 * holder + i;
        for (int row = 0; row < 2; ++row) rows[row][k] = left.a[2 * half + row].v[i];
        for (int column = 0; column < 2; ++column)
          columns[column][k] = operands((2 * t + column) * 4 + holder)->b[half].v[i];
      }
    }
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 2; ++column)
      d.v[2 * row + column] = addProducts(d.v[2 * row + column], rows[row], columns[column]);
}

}  // namespace ddpm::cuda::host
