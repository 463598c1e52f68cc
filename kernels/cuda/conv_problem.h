// A convolution or one of its gradients, in one form for the three ops.
#pragma once
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace ddpm::cuda {

enum class ConvKind : int32_t { forward, dgrad, wgrad };

// forward: image x and filter w give response y. dgrad: response dy and filter w give image dx. wgrad: image x and
// response dy give filter dWeight.
struct ConvProblem {
  ConvKind kind;
  Tensor image, filter, response;
  Tensor bias, sampleBias, residual;  // ? ; added to the result of forward and dgrad
  Tensor dBias;                       // ? ; of wgrad
  ConvShape shape;

  const Tensor& result() const {
    return kind == ConvKind::forward ? response : kind == ConvKind::dgrad ? image : filter;
  }
  bool hasAddends() const { return bias || sampleBias || residual; }
  bool inPlace() const { return residual && residual.data == result().data; }

  int64_t multiplications() const { return response.elements() * filter.h * filter.w * filter.c; }

  // The same for problems that the same algorithms and the same plans of a library serve: shapes, strides, dtypes, the
  // alignment of addresses, what is present and whether it is in place. While a program is compiled, pointers stand for
  // addresses to come, whose low bits they have (native/graph/step.h).
  std::vector<int64_t> key() const;
  // "Conv2d [2,8,8,32] -> 16, 3x3, stride 2"
  std::string describe() const;
};

ConvProblem problemOf(const Conv2d& op);
ConvProblem problemOf(const Conv2dDgrad& op);
ConvProblem problemOf(const Conv2dWgrad& op);
void setOp(Conv2d& op, const ConvProblem& problem, const ConvPlan& plan, const void* packed);
void setOp(Conv2dDgrad& op, const ConvProblem& problem, const ConvPlan& plan, const void* packed);
void setOp(Conv2dWgrad& op, const ConvProblem& problem, const ConvPlan& plan, const void* packed);

// Bytes that an address is aligned to, 16 at most.
int alignmentOf(const Tensor& t);

}  // namespace ddpm::cuda
