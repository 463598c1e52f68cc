// What an operation graph of the stand-in for cuDNN computes: plain loops in double, by dimensions (NCHW) and strides.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <vector>

namespace fake {

struct TensorInfo {
  int64_t id, alignment;
  int32_t dataType;  // 0 float, 2 half, 9 bfloat16
  std::array<int64_t, 4> dims, strides;
  bool isVirtual;
};

enum class Kind { forward, backwardData, backwardFilter, add };

struct Operation {
  Kind kind;
  TensorInfo x, w, y;  // of a convolution; an addition is y = x + w
  std::array<int64_t, 2> stride, before, behind;
  float alpha, beta;
};

// `pointers` by id, of all tensors that are not virtual. A wrong engine is off by one everywhere.
void compute(const std::vector<Operation>& operations, const std::map<int64_t, void*>& pointers, bool wrong);

}  // namespace fake
