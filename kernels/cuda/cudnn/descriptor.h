// Descriptors of cuDNN's backend API, each an owner of its own, and its errors.
#pragma once
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cudnn/api.h"

namespace ddpm::cuda::cudnn {

class Failed : public std::exception {
 public:
  Failed(const Api& api, Status status, const std::string& call);
  Status status() const { return status_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  Status status_;
  std::string message_;
};

inline void check(const Api& api, Status status, const char* call) {
  if (status != kSuccess) throw Failed(api, status, call);
}

// The C++ type of an element of an attribute.
inline AttributeType typeOf(const int64_t*) { return AttributeType::int64; }
inline AttributeType typeOf(const float*) { return AttributeType::f32; }
inline AttributeType typeOf(const bool*) { return AttributeType::boolean; }
inline AttributeType typeOf(const DataType*) { return AttributeType::dataType; }
inline AttributeType typeOf(const ConvolutionMode*) { return AttributeType::convolutionMode; }
inline AttributeType typeOf(const PointwiseMode*) { return AttributeType::pointwiseMode; }
inline AttributeType typeOf(const HeuristicMode*) { return AttributeType::heuristicMode; }
inline AttributeType typeOf(const NumericalNote*) { return AttributeType::numericalNote; }
inline AttributeType typeOf(const Handle*) { return AttributeType::handle; }
inline AttributeType typeOf(const RawDescriptor*) { return AttributeType::descriptor; }

// What refers to a descriptor must not outlive it.
class Descriptor {
 public:
  Descriptor(const Api& api, DescriptorType type) : api_(&api) {
    check(api, api.createDescriptor(type, &raw_), "cudnnBackendCreateDescriptor");
  }
  ~Descriptor() {
    if (raw_) api_->destroyDescriptor(raw_);
  }
  Descriptor(Descriptor&& other) noexcept : api_(other.api_), raw_(std::exchange(other.raw_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(raw_, other.raw_);
    return *this;
  }

  RawDescriptor raw() const { return raw_; }

  template <class T>
  Descriptor& set(Attribute name, const std::vector<T>& values) {
    return setArray(name, typeOf(values.data()), int64_t(values.size()), values.data());
  }
  template <class T>
  Descriptor& set(Attribute name, T value) {
    return setArray(name, typeOf(&value), 1, &value);
  }
  Descriptor& set(Attribute name, const Descriptor& value) { return set(name, value.raw_); }
  // Addresses on the device.
  Descriptor& setPointers(Attribute name, const std::vector<void*>& values) {
    return setArray(name, AttributeType::pointer, int64_t(values.size()), values.data());
  }

  Descriptor& finalize() {
    check(*api_, api_->finalize(raw_), "cudnnBackendFinalize");
    return *this;
  }

  // The elements that there are, `most` of them at most.
  template <class T>
  std::vector<T> get(Attribute name, int64_t most) const {
    std::vector<T> values(static_cast<size_t>(most));
    int64_t count = 0;
    check(*api_, api_->getAttribute(raw_, name, typeOf(values.data()), most, &count, values.data()),
          "cudnnBackendGetAttribute");
    values.resize(size_t(count < most ? count : most));
    return values;
  }
  int64_t count(Attribute name) const {
    int64_t count = 0;
    check(*api_, api_->getAttribute(raw_, name, AttributeType::descriptor, 0, &count, nullptr),
          "cudnnBackendGetAttribute");
    return count;
  }
  // Makes the given descriptors those that the attribute has; returns how many there are.
  int64_t fill(Attribute name, std::vector<Descriptor>& into) const {
    std::vector<RawDescriptor> raw;
    for (const Descriptor& d : into) raw.push_back(d.raw_);
    int64_t count = 0;
    check(*api_, api_->getAttribute(raw_, name, AttributeType::descriptor, int64_t(raw.size()), &count, raw.data()),
          "cudnnBackendGetAttribute");
    return count;
  }

 private:
  Descriptor& setArray(Attribute name, AttributeType type, int64_t count, const void* values) {
    check(*api_, api_->setAttribute(raw_, name, type, count, values), "cudnnBackendSetAttribute");
    return *this;
  }

  const Api* api_;
  RawDescriptor raw_ = nullptr;
};

}  // namespace ddpm::cuda::cudnn
