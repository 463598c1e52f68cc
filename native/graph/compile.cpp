#include "native/graph/compile.h"

#include <algorithm>
#include <cstring>

#include "native/graph/backend_error.h"
#include "native/graph/fuse.h"
#include "native/graph/plan.h"
#include "native/graph/precision.h"

namespace ddpm {
namespace {

bool hasEffect(const Graph& graph, const Node& node) {
  const auto addsToBank = [&](const auto& pair) {
    return size_t(pair.second) < node.inputs.size() && graph.isTrained(node.inputs[pair.second]);
  };
  return node.op->effect || std::any_of(node.op->accumulates.begin(), node.op->accumulates.end(), addsToBank);
}

// The nodes that outputs and effects depend on.
std::vector<int32_t> liveNodes(const Graph& graph, const std::map<std::string, ValueId>& outputs) {
  std::vector<bool> live(graph.nodes().size());
  for (const auto& [name, v] : outputs) live[graph.value(v).node] = true;
  std::vector<int32_t> order;
  for (int32_t i = int32_t(graph.nodes().size()) - 1; i >= 0; --i) {
    const Node& node = graph.node(i);
    if (!live[i] && !hasEffect(graph, node)) continue;
    order.push_back(i);
    for (ValueId v : node.inputs) {
      if (v != kAbsent) live[graph.value(v).node] = true;
    }
  }
  std::reverse(order.begin(), order.end());
  return order;
}

// Outputs whose value lives somewhere else: inputs, slices, a value that is bound to two names.
void copyOutputs(const Region& region, Placement& placement, Steps& steps) {
  for (const auto& [name, v] : region.outputs) {
    const Tensor x = placement.tensor(v);
    const Tensor y = placement.bank(name, 0, region.graph.value(v).dims);
    if (decode(x.data).storage == decode(y.data).storage && decode(x.data).offset == 0) continue;
    steps.steps.push_back(Copy{x, y, 0});
  }
}

const std::set<std::string> kBanks = {"weights", "frozen", "grads", "m", "v", "ema"};

void checkOutputs(const Graph& graph, const std::map<std::string, ValueId>& outputs) {
  for (const auto& [name, v] : outputs) {
    graph.check(v, "compile");
    if (kBanks.count(name)) {
      throw Failure::argumentOf("compile", "outputs", "names that are not a bank's", Failure::quoted(name));
    }
    if (graph.value(v).dtype != DType::f32)
      throw Failure::argumentOf("compile", name, "an f32 value", nameOf(graph.value(v).dtype));
  }
}

std::set<std::string> namesOf(const Graph& graph, const std::map<std::string, ValueId>& outputs,
                              const std::vector<Step>& steps) {
  std::set<std::string> names = kBanks;
  for (const auto& [name, v] : outputs) names.insert(name);
  for (const Node& node : graph.nodes()) {
    if (node.op == findOp("input")) names.insert(node.attributes.string("name"));
  }
  for (const Step& step : steps) {
    if (const auto* sum = std::get_if<RankSum>(&step))
      for (size_t i = 0; i < sum->earlier.size(); ++i) names.insert(earlierBank(int64_t(i)));
  }
  return names;
}

void checkPrecision(const Target& target) {
  const Backend& backend = *target.backend;
  if (backend.precisions & precisionBit(target.precision)) return;
  std::string has;
  for (DType p : kPrecisions) {
    if (backend.precisions & precisionBit(p)) has += (has.empty() ? "'" : ", '") + std::string(precisionName(p)) + "'";
  }
  const std::string received = std::string("'") + precisionName(target.precision) + "'";
  const char* lacks = backend.lacks ? backend.lacks(target.precision) : nullptr;
  Failure f("unsupported", std::string("precision: the ") + backend.name + " backend has " + has + ", not " + received +
                               (lacks ? std::string(", which needs ") + lacks : ""));
  f.argument = "precision";
  f.expected = has;
  f.received = received;
  throw f;
}

// Weights in another format than f32 are for backends that take them, and for their programs of f32.
void checkWeights(const Target& target, const Region& region) {
  const Backend& backend = *target.backend;
  for (int32_t i : region.live) {
    if (region.graph.node(i).op != findOp("parameter")) continue;
    const DType dtype = region.graph.value(region.graph.node(i).outputs[0]).dtype;
    if (dtype == DType::f32) continue;
    const bool isMixed = target.precision != DType::f32 && !backend.roundsOperands;
    if (backend.weightFormats & precisionBit(dtype) && !isMixed) continue;
    Failure f("unsupported", std::string("weights: the ") + backend.name + " backend has no " + nameOf(dtype) +
                                 " weights" + (isMixed ? " in programs of mixed precision" : ""));
    f.argument = "weights";
    f.expected = "'fp32'";
    f.received = nameOf(dtype);
    throw f;
  }
}

size_t scratchOf(const Target& target, const Step& step) {
  return std::visit(
      [&](const auto& op) -> size_t {
        using Op = std::decay_t<decltype(op)>;
        bool (*scratch)(DeviceHandle*, const Op&, size_t*, Error*) = nullptr;
#define DDPM_PICK(Name) \
  if constexpr (std::is_same_v<Op, Name>) scratch = target.backend->k##Name.scratch;
        DDPM_OPS(DDPM_PICK)
#undef DDPM_PICK
        size_t bytes = 0;
        Error error;
        if (scratch && !scratch(target.device, op, &bytes, &error)) throw toFailure(error);
        return bytes;
      },
      step);
}

bool isOptimizer(const OpDef* op) { return op == findOp("adamw") || op == findOp("lion"); }

template <class Optimizer>
bool keepsMirror(const Optimizer& op) {
  return op.mirror && op.mirror.c == op.weight.c;
}

Compiled compileOnce(const Graph& source, const std::map<std::string, ValueId>& outputs, const Target& target) {
  checkOutputs(source, outputs);
  checkPrecision(target);
  Graph graph = source;
  fuseNorms(graph);
  if (target.backend->upsamplesInConv) fuseUpsampling(graph);
  fuseSums(graph, {graph, liveNodes(graph, outputs), outputs});

  Compiled compiled;
  Region region = {graph, liveNodes(graph, outputs), outputs};
  checkWeights(target, region);
  if (target.precision != DType::f32 && !target.backend->roundsOperands)
    region.live = mixPrecision(graph, region, target.precision);
  Placement placement(region);
  const bool changesWeights =
      std::any_of(region.live.begin(), region.live.end(), [&](int32_t i) { return isOptimizer(graph.node(i).op); });
  Lowering lowering(graph, placement, target, changesWeights, compiled.steps);
  if (target.backend->choosesPacking) lowering.choosePacked(region.live);
  for (int32_t i : region.live) lowering.lower(i);
  copyOutputs(region, placement, compiled.steps);
  for (auto& [bank, prologue] : compiled.steps.prologues) {
    const Tensor mirror = placement.mirror(bank);
    if (!mirror) continue;
    if (std::strcmp(bank, "weights") == 0) {
      const auto& steps = compiled.steps.steps;
      compiled.keepsMirror = prologue.empty() && std::any_of(steps.begin(), steps.end(), [&](const Step& step) {
                               if (const AdamW* op = std::get_if<AdamW>(&step)) return keepsMirror(*op);
                               if (const Lion* op = std::get_if<Lion>(&step)) return keepsMirror(*op);
                               return false;
                             });
    }
    prologue.push_back(Copy{placement.bank(bank, 0, {1, 1, 1, mirror.c}), mirror, 0});
  }

  compiled.names = namesOf(graph, outputs, compiled.steps.steps);
  compiled.sum = planSum(compiled.steps.steps);
  compiled.hasRanks = std::any_of(compiled.steps.steps.begin(), compiled.steps.steps.end(), [](const Step& step) {
    return std::holds_alternative<RankSum>(step) || std::holds_alternative<RankGather>(step);
  });
  compiled.storages = std::move(placement.storages());
  compiled.arenaBytes = planArena(compiled.storages, compiled.steps.steps);
  compiled.packedBytes = planPacked(compiled.storages);
  const auto needScratch = [&](const std::vector<Step>& steps) {
    for (const Step& step : steps) compiled.scratchBytes = std::max(compiled.scratchBytes, scratchOf(target, step));
  };
  for (const Prologue& prologue : compiled.steps.prologues) needScratch(prologue.steps);
  needScratch(compiled.steps.steps);
  if (compiled.sum.exists() && target.backend->links) {
    compiled.scratchBytes = aligned(compiled.scratchBytes);
    compiled.sumBytes = sumScratchBytes(std::get<RankSum>(compiled.steps.steps[compiled.sum.at]));
  }
  return compiled;
}

// Once more where algorithms are chosen by times: what there is to be timed is known when all of it is lowered.
void chooseByTimes(const Graph& graph, const std::map<std::string, ValueId>& outputs, const Target& target,
                   const std::atomic<bool>& stop) {
  Target gathering = target;
  Gathered* gathered = gathering.options.gathered = target.backend->gather(target.device);
  if (!gathered) return;
  static const std::atomic<bool> nothing{true};
  try {
    compileOnce(graph, outputs, gathering);
  } catch (...) {
    target.backend->choose(target.device, gathered, nothing);
    throw;
  }
  target.backend->choose(target.device, gathered, stop);
}

}  // namespace

Compiled compile(const Graph& graph, const std::map<std::string, ValueId>& outputs, const Target& target,
                 const std::atomic<bool>* stop) {
  static const std::atomic<bool> never{false};
  if (target.backend->gather && !target.options.deterministic)
    chooseByTimes(graph, outputs, target, stop ? *stop : never);
  return compileOnce(graph, outputs, target);
}

}  // namespace ddpm
