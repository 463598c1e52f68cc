// V numbers that are loaded and stored together.
#pragma once

namespace ddpm::cuda {

template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Vec {
  T v[V];
};

}  // namespace ddpm::cuda
