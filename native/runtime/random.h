// The streams of kernels/philox.h for the host: initial weights, timesteps, the order of data.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "native/runtime/pieces.h"

namespace ddpm {

struct Stream {
  uint32_t seedLow, seedHigh, purpose, sample, step;
};

// n elements of the stream from `first` on, a multiple of 4.
void fillNormal(const Stream& stream, float* out, size_t n, size_t first = 0);
void fillWords(const Stream& stream, uint32_t* out, size_t n, size_t first = 0);

enum class Distribution : int32_t { constant, normal, uniform };

// A parameter's initial values, in terms of its stream: a; a + b z; or a (2 u - 1), u in (0, 1). Computed in double,
// then rounded.
struct InitialValues {
  Place place;
  Distribution distribution;
  uint32_t sample;  // of the stream: the parameter's index
  double a, b;
};

class InitialSource final : public PieceSource {
 public:
  // `stream`: of all, but for `sample`.
  InitialSource(const Stream& stream, std::vector<InitialValues> parameters);
  std::unique_ptr<Maker> maker() const override;

  // Elements of a parameter from `first` on.
  struct Part {
    const InitialValues* values;
    int64_t first, length;
  };

 private:
  const Stream stream_;
  const std::vector<InitialValues> parameters_;
  std::vector<Part> parts_;
};

}  // namespace ddpm
