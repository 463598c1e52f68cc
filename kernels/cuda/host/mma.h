// The matrix product of a warp, from the fragments that its lanes hold.
#pragma once
#include "kernels/cuda/host/grid.h"
#include "kernels/cuda/vec.h"

namespace ddpm::cuda::host {

// mma.sync m16n8k<depth>; see ptx.cuh for who holds what. A word holds two numbers where depth is 16, one where it is
// 8; value(word, i) is its number i. Products and sums in f32, in the order of k.
template <class Value>
void multiplyAdd(Vec<float, 4>& d, const Vec<uint32_t, 4>& a, const Vec<uint32_t, 2>& b, int depth, Where where,
                 Value value) {
  struct Operands {
    Vec<uint32_t, 4> a;
    Vec<uint32_t, 2> b;
  };
  const Operands mine = {a, b};
  const std::byte* lanes = meetWarp(~0u, &mine, sizeof mine, false, where);
  const int g = laneNumber() / 4, t = laneNumber() % 4, perWord = depth / 8;
  for (int k = 0; k < depth; ++k) {
    // Number k of a row of a, or of a column of b, is in word k / (depth / 2) of the lane that k names in its group of
    // four.
    const int holder = k % (depth / 2) / perWord, half = k / (depth / 2), i = k % perWord;
    const Operands left = lanesValue<Operands>(lanes, g * 4 + holder);
    for (int column = 0; column < 2; ++column) {
      const float right = value(lanesValue<Operands>(lanes, (2 * t + column) * 4 + holder).b.v[half], i);
      d.v[column] += value(left.a.v[2 * half], i) * right;
      d.v[2 + column] += value(left.a.v[2 * half + 1], i) * right;
    }
  }
}

}  // namespace ddpm::cuda::host
