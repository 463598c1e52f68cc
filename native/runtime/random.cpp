// Compiled without contraction of a * b + c, as kernels/philox.h asks for.
#include "native/runtime/random.h"

#include <algorithm>

#include "kernels/philox.h"

namespace ddpm {

void fillNormal(const Stream& s, float* out, size_t n, size_t first) {
  for (size_t i = 0; i < n; i += 4) {
    const Normal4 z = normal4(s.seedLow, s.seedHigh, uint32_t((first + i) / 4), s.step, s.sample, s.purpose);
    for (size_t k = 0; k < 4 && i + k < n; ++k) out[i + k] = z.v[k];
  }
}

void fillWords(const Stream& s, uint32_t* out, size_t n, size_t first) {
  for (size_t i = 0; i < n; i += 4) {
    const Philox4 r = philox4x32(s.seedLow, s.seedHigh, uint32_t((first + i) / 4), s.step, s.sample, s.purpose);
    for (size_t k = 0; k < 4 && i + k < n; ++k) out[i + k] = r.v[k];
  }
}

namespace {

class Drawer final : public PieceSource::Maker {
 public:
  Drawer(const Stream& stream, const std::vector<InitialSource::Part>& parts) : stream_(stream), parts_(parts) {}

  void make(size_t piece, float* out) override {
    const auto& [values, first, length] = parts_[piece];
    const size_t n = size_t(length);
    Stream stream = stream_;
    stream.sample = values->sample;
    if (values->distribution == Distribution::constant) {
      std::fill_n(out, n, float(values->a));
    } else if (values->distribution == Distribution::normal) {
      fillNormal(stream, out, n, size_t(first));
      for (size_t i = 0; i < n; ++i) out[i] = float(values->a + double(out[i]) * values->b);
    } else {
      if (words_.size() < n) words_.resize(n);
      fillWords(stream, words_.data(), n, size_t(first));
      // 23 bits and half of the last place, as in philox.h uniform01.
      for (size_t i = 0; i < n; ++i) out[i] = float(values->a * ((double(words_[i] >> 9) + 0.5) * 0x1p-22 - 1.0));
    }
  }

 private:
  const Stream stream_;
  const std::vector<InitialSource::Part>& parts_;
  std::vector<uint32_t> words_;
};

}  // namespace

InitialSource::InitialSource(const Stream& stream, std::vector<InitialValues> parameters)
    : stream_(stream), parameters_(std::move(parameters)) {
  for (const InitialValues& values : parameters_) {
    const int64_t most = pieceOf(4 * values.place.unit());  // streams begin at multiples of 4
    for (int64_t first = 0; first < values.place.length; first += most) {
      const int64_t length = std::min(most, values.place.length - first);
      parts_.push_back({&values, first, length});
      pieces_.push_back({&values.place, first, length});
    }
  }
}

std::unique_ptr<PieceSource::Maker> InitialSource::maker() const { return std::make_unique<Drawer>(stream_, parts_); }

}  // namespace ddpm
