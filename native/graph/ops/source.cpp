// Where values come from: inputs that are bound at each run, parameters, constants.
#include <algorithm>
#include <cstdio>

#include "native/graph/lower.h"

namespace ddpm {
namespace {

std::string listText(const std::vector<double>& list) {
  std::string text = "[";
  for (size_t i = 0; i < list.size() && i < 8; ++i) {
    char number[32];
    std::snprintf(number, sizeof number, "%.17g", list[i]);
    text += (i ? ", " : "") + std::string(number);
  }
  return text + (list.size() > 8 ? ", ...]" : "]");
}

void requirePositive(const Call& call, const char* name, const std::vector<double>& list) {
  for (double v : list) {
    call.require(v >= 1 && v <= INT32_MAX && v == double(int64_t(v)), name, "positive integers", listText(list));
  }
}

Dims dimsAttribute(const Call& call) {
  const std::vector<double>& list = call.attributes.list("dims");
  call.require(list.size() == 4, "dims", "[n, h, w, c]", listText(list));
  requirePositive(call, "dims", list);
  return {int32_t(list[0]), int32_t(list[1]), int32_t(list[2]), int32_t(list[3])};
}

std::vector<ValueType> inferInput(const Call& call) {
  static const char* const banks[] = {"weights", "frozen", "grads", "m", "v", "ema"};
  const std::string& name = call.attributes.string("name");
  const bool taken = std::any_of(std::begin(banks), std::end(banks), [&](const char* b) { return name == b; });
  call.require(!name.empty() && !taken, "name", "a name that is not a bank's", Failure::quoted(name));
  const int32_t dtype = call.choice("dtype", {"f32", "i32"});
  return {{dimsAttribute(call), dtype == 1 ? DType::i32 : DType::f32}};
}

// What a bank holds at a parameter's place; f32 where nothing is said. Banks are counted in elements of four bytes,
// whatever is in them.
DType weightFormat(const Call& call) {
  if (!call.attributes.has("format")) return DType::f32;
  std::vector<std::string> names;
  for (const WeightFormat& format : kWeightFormats) names.push_back(format.name);
  return kWeightFormats[call.choice("format", names)].dtype;
}

void requirePlace(const Call& call, const char* name, double length, int64_t multiple) {
  const int64_t offset = call.attributes.integer(name);
  call.require(offset >= 0 && offset % multiple == 0, name, "a multiple of " + std::to_string(multiple),
               std::to_string(offset));
  call.require(double(offset) + length <= INT32_MAX, name, "a place within the 2^31 - 1 elements of a bank",
               std::to_string(offset));
}

// Shapes as in the PyTorch state_dict to [K, R, S, C]; kernels/ops.h, Layout.
std::vector<ValueType> inferParameter(const Call& call) {
  const std::vector<double>& s = call.attributes.list("shape");
  requirePositive(call, "shape", s);
  call.require(s.size() >= 1 && s.size() <= 4 && (s.size() != 3 || s[2] == 1), "shape",
               "[out, in, kh, kw], [out, in, 1], [out, in] or [c]", listText(s));
  const DType dtype = weightFormat(call);
  call.attributes.flag("frozen");
  double size = 1;
  for (double extent : s) size *= extent;
  requirePlace(call, "offset", size * double(sizeOf(dtype)) / 4, dtype == DType::f32 ? 16 : 4);
  if (dtype == DType::i8) requirePlace(call, "scales", s[0], 1);
  if (s.size() == 1) return {{{1, 1, 1, int32_t(s[0])}, dtype}};
  if (s.size() == 4) return {{{int32_t(s[0]), int32_t(s[2]), int32_t(s[3]), int32_t(s[1])}, dtype}};
  return {{{int32_t(s[0]), 1, 1, int32_t(s[1])}, dtype}};
}

// A parameter as an operand of mixed precision: a part of the mirror of the bank (placement.h).
std::vector<ValueType> inferMirror(const Call& call) { return {{call.dims(0)}}; }

std::vector<ValueType> inferConstant(const Call& call) { return {{dimsAttribute(call)}}; }

void lowerConstant(Lowering& l) { l.run(Fill{l.out(0), float(l.attributes().number("value"))}); }

}  // namespace

const std::vector<OpDef>& sourceOps() {
  static const std::vector<OpDef> ops = {
      {.name = "input", .attributes = {"name", "dims", "dtype"}, .infer = inferInput},
      {.name = "parameter",
       .attributes = {"name", "shape", "offset", "frozen", "format", "scales"},
       .infer = inferParameter},
      {.name = "mirror", .inputs = {"parameter"}, .infer = inferMirror, .internal = true},
      {.name = "constant",
       .attributes = {"dims", "value"},
       .infer = inferConstant,
       .lower = lowerConstant,
       .internal = true},
  };
  return ops;
}

}  // namespace ddpm
