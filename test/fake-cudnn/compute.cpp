#include "test/fake-cudnn/compute.h"

#include <cstring>

#include "kernels/cuda/host/float16.h"

namespace fake {
namespace {

using Index = std::array<int64_t, 4>;  // n, c, h, w

// Virtual tensors, as f32 in the order of their dimensions.
using Virtuals = std::map<int64_t, std::vector<float>>;

class Access {
 public:
  Access(const TensorInfo& t, const std::map<int64_t, void*>& pointers, Virtuals& virtuals) : t_(t) {
    if (!t.isVirtual) {
      data_ = pointers.at(t.id);
      return;
    }
    const int64_t c = t.dims[1], h = t.dims[2], w = t.dims[3];
    t_.strides = {c * h * w, h * w, w, 1};
    t_.dataType = 0;
    auto& memory = virtuals[t.id];
    memory.resize(size());
    data_ = memory.data();
  }

  double get(Index i) const {
    const int64_t at = offset(i);
    if (t_.dataType == 0) return static_cast<const float*>(data_)[at];
    const uint16_t bits = static_cast<const uint16_t*>(data_)[at];
    return t_.dataType == 2 ? ddpm::cuda::host::fromHalf(bits) : ddpm::cuda::host::fromBfloat16(bits);
  }
  void set(Index i, double value) const {
    const int64_t at = offset(i);
    if (t_.dataType == 0)
      static_cast<float*>(data_)[at] = float(value);
    else
      static_cast<uint16_t*>(data_)[at] =
          t_.dataType == 2 ? ddpm::cuda::host::toHalf(float(value)) : ddpm::cuda::host::toBfloat16(float(value));
  }
  // In the order of the dimensions.
  size_t size() const { return size_t(t_.dims[0] * t_.dims[1] * t_.dims[2] * t_.dims[3]); }
  size_t place(const Index& i) const {
    return size_t(((i[0] * t_.dims[1] + i[1]) * t_.dims[2] + i[2]) * t_.dims[3] + i[3]);
  }
  template <class F>
  void each(F f) const {
    Index i;
    for (i[0] = 0; i[0] < t_.dims[0]; ++i[0])
      for (i[1] = 0; i[1] < t_.dims[1]; ++i[1])
        for (i[2] = 0; i[2] < t_.dims[2]; ++i[2])
          for (i[3] = 0; i[3] < t_.dims[3]; ++i[3]) f(i);
  }

 private:
  // A dimension of 1 is the same for every index.
  int64_t offset(const Index& i) const {
    int64_t at = 0;
    for (size_t d = 0; d < 4; ++d) at += t_.dims[d] == 1 ? 0 : i[d] * t_.strides[d];
    return at;
  }

  TensorInfo t_;
  void* data_;
};

// Calls f(x, w, y) with the indices of every product of the convolution.
template <class F>
void eachProduct(const Operation& o, F f) {
  for (int64_t n = 0; n < o.y.dims[0]; ++n)
    for (int64_t k = 0; k < o.y.dims[1]; ++k)
      for (int64_t p = 0; p < o.y.dims[2]; ++p)
        for (int64_t q = 0; q < o.y.dims[3]; ++q)
          for (int64_t r = 0; r < o.w.dims[2]; ++r)
            for (int64_t s = 0; s < o.w.dims[3]; ++s) {
              const int64_t h = p * o.stride[0] - o.before[0] + r, v = q * o.stride[1] - o.before[1] + s;
              if (h < 0 || v < 0 || h >= o.x.dims[2] || v >= o.x.dims[3]) continue;
              for (int64_t c = 0; c < o.x.dims[1]; ++c) f(Index{n, c, h, v}, Index{k, c, r, s}, Index{n, k, p, q});
            }
}

}  // namespace

void compute(const std::vector<Operation>& operations, const std::map<int64_t, void*>& pointers, bool wrong) {
  Virtuals virtuals;
  for (const Operation& o : operations) {
    const Access x(o.x, pointers, virtuals), w(o.w, pointers, virtuals), y(o.y, pointers, virtuals);
    if (o.kind == Kind::add) {
      y.each([&](Index i) { y.set(i, float(x.get(i)) + float(w.get(i))); });
      continue;
    }
    const Access& to = o.kind == Kind::forward ? y : o.kind == Kind::backwardData ? x : w;
    std::vector<double> sums(to.size());
    eachProduct(o, [&](const Index& i, const Index& f, const Index& j) {
      if (o.kind == Kind::forward)
        sums[to.place(j)] += x.get(i) * w.get(f);
      else if (o.kind == Kind::backwardData)
        sums[to.place(i)] += y.get(j) * w.get(f);
      else
        sums[to.place(f)] += x.get(i) * y.get(j);
    });
    to.each([&](Index i) {
      const double old = o.beta == 0 ? 0 : o.beta * to.get(i);
      to.set(i, o.alpha * sums[to.place(i)] + old + (wrong ? 1 : 0));
    });
  }
}

}  // namespace fake
