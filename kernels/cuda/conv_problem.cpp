#include "kernels/cuda/conv_problem.h"

#include <cstdio>

namespace ddpm::cuda {

ConvProblem problemOf(const Conv2d& op) {
  return {ConvKind::forward, op.x, op.w, op.y, op.bias, op.sampleBias, op.residual, {}, op.shape};
}
ConvProblem problemOf(const Conv2dDgrad& op) {
  return {ConvKind::dgrad, op.dx, op.w, op.dy, {}, {}, op.residual, {}, op.shape};
}
ConvProblem problemOf(const Conv2dWgrad& op) {
  return {ConvKind::wgrad, op.x, op.dWeight, op.dy, {}, {}, {}, op.dBias, op.shape};
}

void setOp(Conv2d& op, const ConvProblem& p, const ConvPlan& plan, const void* packed) {
  op = {p.image, p.filter, p.response, p.bias, p.sampleBias, p.residual, packed, p.shape, plan.algo, plan.splits};
}
void setOp(Conv2dDgrad& op, const ConvProblem& p, const ConvPlan& plan, const void* packed) {
  op = {p.response, p.filter, p.image, p.residual, packed, p.shape, plan.algo, plan.splits};
}
void setOp(Conv2dWgrad& op, const ConvProblem& p, const ConvPlan& plan, const void*) {
  op = {p.image, p.response, p.filter, p.dBias, p.shape, plan.algo};
}

int alignmentOf(const Tensor& t) {
  const uintptr_t at = uintptr_t(t.data) | 16;
  return int(at & (~at + 1));
}

std::vector<int64_t> ConvProblem::key() const {
  std::vector<int64_t> key = {int64_t(kind), shape.stride, shape.padTop, shape.padLeft, inPlace()};
  for (const Tensor* t : {&image, &filter, &response, &bias, &sampleBias, &residual, &dBias}) {
    key.push_back(bool(*t));
    if (*t) key.insert(key.end(), {t->n, t->h, t->w, t->c, t->ld, int64_t(t->dtype), alignmentOf(*t)});
  }
  return key;
}

std::string ConvProblem::describe() const {
  static const char* const names[] = {"Conv2d", "Conv2dDgrad", "Conv2dWgrad"};
  const auto text = [](const Tensor& t) {
    char dims[64];
    std::snprintf(dims, sizeof dims, "[%d,%d,%d,%d]", t.n, t.h, t.w, t.c);
    return std::string(dims);
  };
  const Tensor &from = kind == ConvKind::dgrad ? response : image, &to = kind == ConvKind::dgrad ? image : response;
  return std::string(names[int(kind)]) + " " + text(from) + " to " + text(to) + ", " + std::to_string(filter.h) + "x" +
         std::to_string(filter.w) + (shape.stride == 1 ? "" : ", stride " + std::to_string(shape.stride));
}

}  // namespace ddpm::cuda
