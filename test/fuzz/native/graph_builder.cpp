#include "test/fuzz/native/graph_builder.h"

#include <cmath>
#include <limits>
#include <string_view>

#include "native/graph/autodiff.h"

namespace ddpm::fuzz {
namespace {

const std::vector<const OpDef*>& publicOps() {
  static const std::vector<const OpDef*> ops = [] {
    std::vector<const OpDef*> found;
    for (const auto* group : {&sourceOps(), &convOps(), &normOps(), &attentionOps(), &activationOps(),
                              &elementwiseOps(), &resampleOps(), &layoutOps(), &tokenOps(), &embeddingOps(), &lossOps(),
                              &diffusionOps(), &varianceOps(), &latentOps(), &optimizerOps(), &rankOps()}) {
      for (const OpDef& op : *group)
        if (!op.internal) found.push_back(&op);
    }
    return found;
  }();
  return ops;
}

const double kHostile[] = {0,
                           -1,
                           0.5,
                           -0.0,
                           1e300,
                           2147483647,
                           2147483648,
                           -2147483648,
                           4294967296,
                           9007199254740992.0,
                           1e9,
                           65536,
                           std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()};
const int32_t kExtents[] = {1, 2, 3, 4, 5, 7, 8, 9};
const int32_t kChannels[] = {1, 2, 3, 4, 6, 8, 16, 17, 32, 33, 48};
const int32_t kSamples[] = {1, 1, 2, 3};

bool isOneOf(std::string_view name, std::initializer_list<std::string_view> names) {
  for (std::string_view n : names)
    if (n == name) return true;
  return false;
}

}  // namespace

ValueId GraphBuilder::input(const Dims& d, const char* dtype) {
  const std::vector<double> dims = {double(d[0]), double(d[1]), double(d[2]), double(d[3])};
  return graph_.add("input", {},
                    {{"name", "x" + std::to_string(names_++)}, {"dims", dims}, {"dtype", std::string(dtype)}})[0];
}

ValueId GraphBuilder::parameter(const std::vector<double>& shape) {
  const int64_t offset = (weights_ + 15) / 16 * 16;
  const ValueId v = graph_.add("parameter", {}, {{"name", "p"}, {"shape", shape}, {"offset", double(offset)}})[0];
  weights_ = offset + elements(graph_.value(v).dims);
  return v;
}

ValueId GraphBuilder::anyValue() {
  if (graph_.values().empty()) return input({1, 4, 4, 8});
  return ValueId((bytes_.byte() << 8 | bytes_.byte()) % graph_.values().size());
}

ValueId GraphBuilder::like(const Dims& dims) {
  const auto& values = graph_.values();
  const size_t start = bytes_.byte();
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t v = (start + i) % values.size();
    if (values[v].dims == dims && values[v].dtype == DType::f32) return ValueId(v);
  }
  return input(dims);
}

ValueId GraphBuilder::hostileValue() {
  const ValueId choices[] = {kAbsent,
                             -2,
                             std::numeric_limits<ValueId>::min(),
                             std::numeric_limits<ValueId>::max(),
                             ValueId(graph_.values().size()),
                             anyValue()};
  return bytes_.one(choices);
}

// `x`: dims of the node's first input.
ValueId GraphBuilder::plausibleValue(const std::string& name, const OpDef& op, const Dims& x) {
  const std::string_view kind = op.name;
  const auto of = [&](int32_t h, int32_t c) { return Dims{x[0], h, 1, c}; };
  if (name == "weight" && kind == "weightedSum") return like(x);
  if (name == "weight" && kind == "fourierEmbedding") return parameter({double(bytes_.one(kChannels))});
  if (name == "weight") {
    const double k = bytes_.one(kChannels), r = kind == "linear" ? 1 : bytes_.one({1, 3, 3, 2, 5});
    return parameter(kind == "linear" ? std::vector<double>{k, double(x[3])}
                                      : std::vector<double>{k, double(x[3]), r, r});
  }
  if (name == "bias") return parameter({double(graph_.values().back().dims[0])});
  if (isOneOf(name, {"gamma", "beta"})) return parameter({double(x[3])});
  if (name == "mask") return like({bytes_.below(2) ? 1 : x[0], x[1], x[2], x[1] * x[2]});
  if (name == "e") return like(of(1, kind == "scaleShift" ? 2 * x[3] : x[3]));
  if (isOneOf(name, {"t", "sample", "step"})) {
    if (isOneOf(kind, {"timestepEmbedding", "fourierEmbedding"})) return like(of(1, 1));
    return input(kind == "extract" ? Dims{2, 1, 1, 1} : of(1, 1), "i32");
  }
  if (name == "d" && bytes_.below(2)) return input(of(1, 1), "i32");
  if (name == "d") return like(bytes_.below(2) ? of(1, 1) : Dims{1, 1, 1, 1});
  if (name == "scale" && kind == "posteriorStep") return like(of(1, 1));
  if (name == "label") return input(of(1, 1), "i32");
  if (name == "index") return input(bytes_.below(2) ? Dims{2, 1, 1, 1} : Dims{2, 3, 2, 1}, "i32");
  if (name == "noise" && kind == "gaussianSample") return like({x[0], x[1], x[2], x[3] / 2});
  if (name == "codebook") return parameter({5, double(x[3])});
  if (name == "rng") return input({1, 1, 1, 4}, "i32");
  if (name == "table" && kind == "nextStep") return input({5, 1, 1, 1}, "i32");
  if (name == "table" && kind == "embedding") return parameter({5, double(bytes_.one(kChannels))});
  if (isOneOf(name, {"table", "a", "b"}) && kind != "add") {
    return like({1, 1, 1, bytes_.one({8, 40, 5, 1}) * (kind == "posteriorStep" || name != "table" ? 1 : 2)});
  }
  if (name == "hyper") return like({1, 1, 1, bytes_.one({8, 16, 1, 9})});
  if (name == "sumSquares") return like({1, 1, 1, 1});
  return like(x);
}

Attributes::Entry GraphBuilder::hostileEntry() {
  switch (bytes_.below(5)) {
    case 0:
      return bytes_.below(2) == 1;
    case 1:
      return std::string(size_t(bytes_.below(3)), 'w');
    case 2:
      return std::vector<double>(size_t(bytes_.below(7)), bytes_.one(kHostile));
    default:
      return bytes_.one(kHostile);
  }
}

Attributes::Entry GraphBuilder::plausibleEntry(const std::string& name, const Dims& x) {
  if (name == "name") return "x" + std::to_string(names_++);
  if (name == "dtype") return std::string(bytes_.below(4) ? "f32" : "i32");
  if (name == "dims" && bytes_.below(2)) return std::vector<double>{double(x[0]) * x[1], double(x[3]), 1, double(x[2])};
  if (name == "dims") {
    return std::vector<double>{double(bytes_.one(kSamples)), double(bytes_.one(kExtents)), double(bytes_.one(kExtents)),
                               double(bytes_.one(kChannels))};
  }
  if (name == "shape") return std::vector<double>(size_t(1 + bytes_.below(4)), double(bytes_.one(kExtents)));
  if (name == "padding") {
    if (bytes_.below(4)) return std::vector<double>(4, bytes_.below(3));
    return std::vector<double>{double(bytes_.below(3)), double(bytes_.below(3)), double(bytes_.below(3)),
                               double(bytes_.below(3))};
  }
  if (name == "taps") return std::vector<double>(size_t(1 + bytes_.below(8)), bytes_.one({1.0, 0.5, -2.0}));
  if (isOneOf(name, {"up", "down"})) return double(bytes_.one({1, 2, 3}));
  if (isOneOf(name, {"log", "sinFirst", "clip", "ema"})) return bytes_.below(2) == 1;
  if (name == "order") return std::string(bytes_.below(2) ? "heads-first" : "qkv-first");
  if (name == "type") return std::string(bytes_.one({"l1", "l2", "huber", "smooth_l1", "pseudo_huber"}));
  if (name == "delta") return bytes_.one({1.0, 0.1, 0.0});
  if (isOneOf(name, {"scale", "eps", "p", "freqShift", "amount", "ratio"})) return bytes_.one({0.5, 1e-5, 0.0, 0.999});
  if (name == "maxPeriod") return 10000.0;
  if (name == "count" && weights_ > 0 && bytes_.below(2)) return double((weights_ + 15) / 16 * 16);
  if (name == "channels") return double(bytes_.one({1, 2, 3, 4}));
  if (isOneOf(name, {"height", "width"}) && x[3] > 1) return double(bytes_.one(kExtents));
  return double(bytes_.one({1, 2, 0, 3, 4, 8, 16, 32}));
}

// Opens a region or closes it, or tries to.
void GraphBuilder::toggleRegion() {
  try {
    if (graph_.isRegionOpen() != hostile())
      graph_.closeRegion();
    else
      graph_.openRegion();
  } catch (const Failure& failure) {
    if (failure.code == "internal") throw;
  }
}

void GraphBuilder::addNode() {
  if (bytes_.below(16) == 0) toggleRegion();
  const OpDef& op = *publicOps()[size_t(bytes_.below(int(publicOps().size())))];
  try {
    std::vector<ValueId> inputs;
    Dims x = {1, 4, 4, 8};
    for (const char* text : op.inputs) {
      std::string name = text;
      const bool optional = name.back() == '?';
      if (optional) name.pop_back();
      if (name == "...") {
        for (int more = bytes_.below(4); more > 0; --more) inputs.push_back(like(x));
      } else if (hostile()) {
        inputs.push_back(hostileValue());
      } else if (inputs.empty() && !isOneOf(name, {"rng", "hyper", "table", "index", "step"})) {
        inputs.push_back(anyValue());
        x = graph_.value(inputs[0]).dims;
      } else {
        inputs.push_back(optional && bytes_.below(2) ? kAbsent : plausibleValue(name, op, x));
      }
    }
    Attributes attributes;
    for (const char* name : op.attributes) {
      if (!hostile())
        attributes.set(name, plausibleEntry(name, x));
      else if (bytes_.below(4))
        attributes.set(name, hostileEntry());
    }
    if (hostile()) attributes.set("another", hostileEntry());
    graph_.add(hostile() ? "conv2dSum" : op.name, std::move(inputs), std::move(attributes));
  } catch (const Failure& failure) {
    if (failure.code == "internal") throw;
  }
}

void GraphBuilder::differentiate() {
  if (graph_.isRegionOpen() && !hostile()) graph_.closeRegion();
  try {
    const ValueId loss = hostile() ? hostileValue() : anyValue();
    std::vector<ValueId> wrt;
    for (int n = bytes_.below(3); n > 0; --n) wrt.push_back(hostile() ? hostileValue() : anyValue());
    backward(graph_, loss, wrt);
  } catch (const Failure& failure) {
    if (failure.code == "internal") throw;
  }
}

}  // namespace ddpm::fuzz
