// Mixed precision: which values of a program are narrow (kernels/ops.h, Precision).
#pragma once
#include <vector>

#include "native/graph/placement.h"

namespace ddpm {

// Precisions of programs, each named by its narrow dtype.
constexpr DType kPrecisions[] = {DType::f32, DType::f16, DType::bf16};
const char* precisionName(DType narrow);  // fp32, fp16, bf16

// Gives each value of the region its dtype and inserts the casts that this takes. `narrow` is f16 or bf16. Returns the
// live nodes, casts included, in the order in which they run.
//
// Operands of products are narrow. What an op can write either way is narrow where everyone who reads it takes that;
// sums are not: they are the residual stream, and its gradient, which gather what hundreds of layers add. A value that
// one reads wide and another narrow is wide and cast once. Slices and concatenations, which are views, have the width
// of what they are made of. Parameters that are operands are read from the mirror, a narrow copy of the bank 'weights'.
std::vector<int32_t> mixPrecision(Graph& graph, const Region& region, DType narrow);

}  // namespace ddpm
