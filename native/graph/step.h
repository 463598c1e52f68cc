// A step of a compiled program: one op of kernels/ops.h whose pointers are still addresses (storage, offset), or what
// only several processes compute, and a way to visit these pointers. Planning, binding and describing a program all go
// through `visitFields`.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "kernels/ops.h"

namespace ddpm {

// The sum of a bank over all ranks (rank_sum.h): no backend's op, as the runtime computes it with the other processes.
struct RankSum {
  Tensor grads;                 // {1,1,1,P}: what this rank's last batch gave; then the sum of all batches of all ranks
  std::vector<Tensor> earlier;  // what the nodes of this rank's batches before it gave; then anything
  int32_t rank, ranks;
  int64_t share;    // batches of each rank
  bool keepsParts;  // each rank gets its own parts of the sum only (bank_parts.h)
};
// Each rank has its own parts of a bank of `count` elements, and gets those of the others: of the bank {1,1,1,P}, or of
// one number for each of its parts {1,1,P,1}.
struct RankGather {
  Tensor x;
  int64_t count;
  int32_t rank, ranks;
};
// The name that the i-th of `earlier` is bound by.
inline std::string earlierBank(int64_t i) { return "earlier-" + std::to_string(i); }

#define DDPM_ALTERNATIVE(Op) , Op
using Step = std::variant<std::monostate DDPM_OPS(DDPM_ALTERNATIVE), RankSum, RankGather>;
#undef DDPM_ALTERNATIVE

// Where a pointer will point once memory is bound; kept in the pointer itself until then. Never null.
struct Address {
  uint32_t storage;
  uint64_t offset;  // in bytes, below 2^40
};
inline void* encode(Address a) { return reinterpret_cast<void*>((uint64_t(a.storage + 1) << 40) | a.offset); }
inline Address decode(const void* p) {
  const uint64_t bits = reinterpret_cast<uint64_t>(p);
  return {uint32_t(bits >> 40) - 1, bits & ((uint64_t(1) << 40) - 1)};
}

enum class Access { read, write, update };

const char* opName(const Step& step);

// Calls f(name, Tensor&, Access) for each tensor, and f(name, void*&, Access) for each other pointer, absent ones
// included.
template <class F>
void visitFields(std::monostate&, F&&) {}

#define R(field) f(#field, o.field, Access::read);
#define W(field) f(#field, o.field, Access::write);
#define U(field) f(#field, o.field, Access::update);
#define PACKED_R f("packed", const_cast<void*&>(o.packed), Access::read);
#define PACKED_W f("packed", o.packed, Access::write);
#define DDPM_FIELDS(Op, ...)       \
  template <class F>               \
  void visitFields(Op& o, F&& f) { \
    __VA_ARGS__                    \
  }

DDPM_FIELDS(ConvPackWeights, R(w) R(scale) PACKED_W)
DDPM_FIELDS(Conv2d, R(x) R(w) R(scale) R(bias) R(sampleBias) R(residual) PACKED_R W(y))
DDPM_FIELDS(Conv2dDgrad, R(dy) R(w) R(scale) R(residual) PACKED_R W(dx))
DDPM_FIELDS(Conv2dWgrad, R(x) R(dy) U(dWeight) U(dBias))
DDPM_FIELDS(GroupNorm, R(x) R(gamma) R(beta) R(scale) R(shift) W(y) W(mean) W(rstd))
DDPM_FIELDS(GroupNormBackward,
            R(x) R(gamma) R(beta) R(scale) R(shift) R(mean) R(rstd) R(dy) W(dx) U(dGamma) U(dBeta) W(dScale) W(dShift))
DDPM_FIELDS(LayerNorm, R(x) R(gamma) R(beta) W(y) W(mean) W(rstd))
DDPM_FIELDS(LayerNormBackward, R(x) R(gamma) R(mean) R(rstd) R(dy) W(dx) U(dGamma) U(dBeta))
DDPM_FIELDS(Attention, R(q) R(k) R(v) R(mask) W(y) W(lse))
DDPM_FIELDS(AttentionBackward, R(q) R(k) R(v) R(mask) R(y) R(lse) R(dy) W(dq) W(dk) W(dv))
DDPM_FIELDS(LinearAttention, R(q) R(k) R(v) W(y) W(keyLse) W(queryLse) W(context))
DDPM_FIELDS(LinearAttentionBackward, R(q) R(k) R(v) R(y) R(keyLse) R(queryLse) R(context) R(dy) W(dq) W(dk) W(dv))
DDPM_FIELDS(PrependTokens, R(x) R(table) W(y))
DDPM_FIELDS(PrependTokensBackward, R(dy) W(dx) U(dTable))
DDPM_FIELDS(Unary, R(x) W(y))
DDPM_FIELDS(UnaryBackward, R(x) R(dy) W(dx))
DDPM_FIELDS(Geglu, R(x) W(y))
DDPM_FIELDS(GegluBackward, R(x) R(dy) W(dx))
DDPM_FIELDS(Add, R(a) R(b) W(y))
DDPM_FIELDS(AddSample, R(x) R(e) W(y))
DDPM_FIELDS(SumPixels, R(x) W(y))
DDPM_FIELDS(DivSample, R(x) R(d) W(y))
DDPM_FIELDS(ScaleShift, R(x) R(e) W(y))
DDPM_FIELDS(ScaleShiftBackward, R(x) R(e) R(dy) W(dx) W(de))
DDPM_FIELDS(Copy, R(x) f("y", o.y, o.accumulate ? Access::update : Access::write);)
DDPM_FIELDS(Fill, W(y))
DDPM_FIELDS(UpsampleNearest, R(x) W(y))
DDPM_FIELDS(UpsampleNearestBackward, R(dy) W(dx))
DDPM_FIELDS(AvgPool, R(x) W(y))
DDPM_FIELDS(AvgPoolBackward, R(dy) W(dx))
DDPM_FIELDS(Pool, R(x) W(y))
DDPM_FIELDS(ResizeBilinear, R(x) W(y))
DDPM_FIELDS(FirResample, R(x) W(y))
DDPM_FIELDS(ToNhwc, R(x) W(y))
DDPM_FIELDS(ToNchw, R(x) W(y))
DDPM_FIELDS(Embedding, R(index) R(table) W(y))
DDPM_FIELDS(EmbeddingBackward, R(index) R(dy) U(dTable))
DDPM_FIELDS(FourierEmbedding, R(t) R(weight) W(y))
DDPM_FIELDS(TimestepEmbedding, R(t) W(y))
DDPM_FIELDS(Dropout, R(x) R(rng) W(y))
DDPM_FIELDS(Loss, R(pred) R(target) W(loss))
DDPM_FIELDS(ElementLoss, R(pred) R(target) W(y))
DDPM_FIELDS(LossBackward, R(pred) R(target) R(dLoss) W(dPred))
DDPM_FIELDS(WeightedSum, R(x) R(weight) W(y))
DDPM_FIELDS(WeightedSumBackward, R(weight) R(dy) W(dx))
DDPM_FIELDS(CrossEntropy, R(logits) R(label) W(loss))
DDPM_FIELDS(CrossEntropyBackward, R(logits) R(label) R(dLoss) W(dLogits))
DDPM_FIELDS(TimestepAffine, R(x) R(z) R(a) R(b) R(t) W(y))
DDPM_FIELDS(Extract, R(table) R(t) W(y))
DDPM_FIELDS(PosteriorStep, R(x) R(out) R(table) R(t) R(noise) R(rng) R(sample) R(step) R(scale) W(y) W(x0))
DDPM_FIELDS(RescaleGuidance, R(x) R(reference) W(y))
DDPM_FIELDS(AbsQuantile, R(x) W(y))
DDPM_FIELDS(NextStep, U(step) R(table) W(t))
DDPM_FIELDS(GaussianNoise, R(rng) R(sample) R(step) W(y))
DDPM_FIELDS(VarianceNoise, R(x) R(v) R(table) R(t) R(noise) W(y))
DDPM_FIELDS(VariationalLoss, R(mean) R(trueMean) R(x0) R(v) R(table) R(t) W(loss))
DDPM_FIELDS(VariationalLossBackward, R(mean) R(trueMean) R(x0) R(v) R(table) R(t) R(dLoss) W(dV))
DDPM_FIELDS(GaussianSample, R(moments) R(noise) W(y))
DDPM_FIELDS(GaussianSampleBackward, R(moments) R(noise) R(dy) W(dMoments))
DDPM_FIELDS(GaussianKl, R(moments) W(kl))
DDPM_FIELDS(GaussianKlBackward, R(moments) R(dKl) W(dMoments))
DDPM_FIELDS(NearestCode, R(z) R(codebook) W(index) W(number))
DDPM_FIELDS(SumSquares, R(x) W(y))
DDPM_FIELDS(AdamW, U(weight) R(grad) U(m) U(v) R(hyper) R(sumSquares) U(ema) U(mirror))
DDPM_FIELDS(Lion, U(weight) R(grad) U(m) R(hyper) R(sumSquares) U(ema) U(mirror))
DDPM_FIELDS(Ema, U(ema) R(weight) R(hyper))

template <class F>
void visitFields(RankSum& o, F&& f) {
  U(grads)
  for (Tensor& bank : o.earlier) f("earlier", bank, Access::update);
}
DDPM_FIELDS(RankGather, U(x))

#undef DDPM_FIELDS
#undef PACKED_W
#undef PACKED_R
#undef U
#undef W
#undef R

inline void*& pointerOf(Tensor& t) { return t.data; }
inline void*& pointerOf(void*& p) { return p; }

// Calls f(pointer, access) for each pointer of a step that is present.
template <class F>
void visitPointers(Step& step, F&& f) {
  std::visit(
      [&](auto& op) {
        visitFields(op, [&](const char*, auto& field, Access access) {
          if (pointerOf(field)) f(pointerOf(field), access);
        });
      },
      step);
}

}  // namespace ddpm
