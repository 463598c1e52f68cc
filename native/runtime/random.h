// The streams of kernels/philox.h for the host: initial weights, timesteps, the order of data.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ddpm {

struct Stream {
  uint32_t seedLow, seedHigh, purpose, sample, step;
};

// Elements 0 to n - 1 of the stream.
void fillNormal(const Stream& stream, float* out, size_t n);
void fillWords(const Stream& stream, uint32_t* out, size_t n);

}  // namespace ddpm
