// Numbers of a buffer in the formats of weights: filled from a file, with initial values or from an array, on the
// device's thread and others; and read.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "kernels/philox.h"
#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/runtime/address_space.h"
#include "native/runtime/random.h"
#include "native/runtime/stored_numbers.h"

namespace ddpm::binding {
namespace {

// Of what is in a file or a stream: exact in a double.
constexpr double kMaxCount = 9007199254740991.0;

double toCount(const Napi::Value& value, const char* argument, double least, double most) {
  const double v = toNumber(value, argument);
  if (v >= least && v <= most && v == std::trunc(v)) return v;
  throw Failure::argumentOf(
      "native", argument, "an integer from " + std::to_string(int64_t(least)) + " to " + std::to_string(int64_t(most)),
      std::to_string(v));
}

uint32_t toWord(const Napi::Value& value, const char* argument) {
  return uint32_t(toCount(value, argument, 0, double(UINT32_MAX)));
}

template <size_t n>
std::array<double, n> toList(const Napi::Value& value, const char* argument, double least, double most) {
  const Napi::Array array = toArray(value, argument);
  if (array.Length() != n)
    throw Failure::argumentOf("native", argument, std::to_string(n) + " numbers", std::to_string(array.Length()));
  std::array<double, n> list;
  for (uint32_t i = 0; i < n; ++i) list[i] = toCount(array.Get(i), argument, least, most);
  return list;
}

int32_t indexIn(const Napi::Value& value, const char* argument, std::initializer_list<std::string_view> names) {
  const std::string name = toString(value, argument);
  int32_t index = 0;
  for (const std::string_view known : names) {
    if (name == known) return index;
    ++index;
  }
  throw Failure::argumentOf("native", argument, "a known name", Failure::quoted(name));
}

Place toPlace(const Napi::Value& value, const char* where, const Buffer& target) {
  const Napi::Object object = toObject(value, "place");
  const std::string format = toString(object.Get("format"), "format");
  const auto known = std::find_if(std::begin(kWeightFormats), std::end(kWeightFormats),
                                  [&](const WeightFormat& each) { return format == each.name; });
  if (known == std::end(kWeightFormats))
    throw Failure::argumentOf(where, "format", "a known format", Failure::quoted(format));
  const double offset = toNumber(object.Get("offset"), "offset"), length = toNumber(object.Get("length"), "length");
  Place place;
  place.format = known->dtype;
  const double width = double(sizeOf(place.format));
  const bool isCount = length >= 0 && length == std::trunc(length);
  target.checkRange(where, offset, isCount ? std::ceil(length * width / 4) : -1);
  place.offset = int64_t(offset);
  place.length = int64_t(length);
  if (isGiven(object.Get("name"))) place.name = toString(object.Get("name"), "name");
  if (place.format != DType::i8) return place;
  place.row = int64_t(toCount(object.Get("row"), "row", 1, INT32_MAX));
  if (place.length % place.row != 0)
    throw Failure::argumentOf(where, "row", "a divisor of the length", std::to_string(place.row));
  const double scales = toNumber(object.Get("scales"), "scales");
  target.checkRange(where, scales, double(place.rows()));
  place.scales = int64_t(scales);
  return place;
}

StoredNumbers toStored(const Napi::Object& object, const Buffer& target) {
  StoredNumbers stored;
  stored.position = uint64_t(toCount(object.Get("position"), "position", 0, kMaxCount));
  stored.dtype = FileDType(indexIn(object.Get("dtype"), "dtype", {"F32", "F16", "BF16", "F64"}));
  const auto axes = toList<4>(object.Get("axes"), "axes", 1, INT32_MAX);
  const auto order = toList<4>(object.Get("order"), "order", 0, 3);
  stored.place = toPlace(object.Get("place"), "load", target);
  double length = 1;
  int32_t seen = 0;
  for (size_t i = 0; i < 4; ++i) {
    length *= axes[i];
    seen |= 1 << int32_t(order[i]);
    stored.axes[i] = int64_t(axes[i]);
    stored.order[i] = int32_t(order[i]);
  }
  if (seen != 15) throw Failure::argumentOf("load", "order", "each axis once", "one twice");
  if (length != double(stored.place.length))
    throw Failure::argumentOf("load", "axes", std::to_string(stored.place.length) + " numbers", std::to_string(length));
  return stored;
}

InitialValues toInitial(const Napi::Object& object, const Buffer& target) {
  InitialValues values;
  values.place = toPlace(object.Get("place"), "draw", target);
  values.distribution = Distribution(indexIn(object.Get("kind"), "kind", {"constant", "normal", "uniform"}));
  values.sample = toWord(object.Get("index"), "index");
  values.a = toNumber(object.Get("a"), "a");
  values.b = toNumber(object.Get("b"), "b");
  return values;
}

template <class T>
std::vector<T> toListOf(const Napi::Value& value, const char* argument, const Buffer& target,
                        T (*convert)(const Napi::Object&, const Buffer&)) {
  const Napi::Array array = toArray(value, argument);
  std::vector<T> list;
  for (uint32_t i = 0; i < array.Length(); ++i) list.push_back(convert(toObject(array.Get(i), argument), target));
  return list;
}

}  // namespace

Napi::Value NativeBuffer::load(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    auto tensors = toListOf<StoredNumbers>(info[1], "tensors", *target, toStored);
    auto file = std::make_shared<const InputFile>(toInt(info[0], "file"));
    auto source = std::make_unique<StoredSource>(std::move(file), std::move(tensors));
    Device& device = *target->device;
    const auto filler = std::make_shared<PieceFiller>(target, std::move(source), fillingThreads(device));
    return Environment::of(info.Env()).promiseOfPieces(info.Env(), device, [filler] { return filler->next(); });
  });
}

// One job, not pieces with a promise: whatever is asked for next sees the values.
Napi::Value NativeBuffer::draw(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    const Stream stream = {toWord(info[0], "seedLow"), toWord(info[1], "seedHigh"), uint32_t(Purpose::weights), 0, 0};
    auto values = toListOf<InitialValues>(info[2], "parameters", *target, toInitial);
    auto source = std::make_unique<InitialSource>(stream, std::move(values));
    Device& device = *target->device;
    const auto filler = std::make_shared<PieceFiller>(target, std::move(source), fillingThreads(device));
    device.submit([filler] {
      while (filler->next()) {
      }
    });
    return info.Env().Undefined();
  });
}

Napi::Value NativeBuffer::fill(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    Place place = toPlace(info[1], "fill", *target);
    const bool isTyped = info[0].IsTypedArray();
    if (!isTyped || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
      throw Failure::argumentOf("fill", "data", "a Float32Array", "another value");
    const auto numbers = info[0].As<Napi::Float32Array>();
    if (int64_t(numbers.ElementLength()) != place.length)
      throw Failure::argumentOf("fill", "data", std::to_string(place.length) + " numbers",
                                std::to_string(numbers.ElementLength()));
    leaveRoom(uint64_t(place.length) * 4);
    std::vector<float> copy(numbers.Data(), numbers.Data() + place.length);
    auto source = std::make_unique<ArraySource>(std::move(copy), std::move(place));
    Device& device = *target->device;
    const auto filler = std::make_shared<PieceFiller>(target, std::move(source), fillingThreads(device));
    return Environment::of(info.Env()).promiseOfPieces(info.Env(), device, [filler] { return filler->next(); });
  });
}

// The device's thread writes straight into the result, which nobody else sees before the promise resolves.
Napi::Value NativeBuffer::readAt(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto source = buffer();
    const Place place = toPlace(info[0], "readAt", *source);
    Napi::Float32Array result = newFloats(info.Env(), double(place.length));
    float* data = result.Data();
    const auto work = [source, data, place] {
      if (place.length > 0) source->readAt(place, data);
    };
    return Environment::of(info.Env()).promise(info.Env(), *source->device, work, result);
  });
}

}  // namespace ddpm::binding
