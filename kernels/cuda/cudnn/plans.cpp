#include "kernels/cuda/cudnn/plans.h"

#include <algorithm>

namespace ddpm::cuda::cudnn {

Failed::Failed(const Api& api, Status status, const std::string& call)
    : status_(status), message_(call + ": " + api.getErrorString(status)) {
  char detail[512] = {0};
  api.getLastErrorString(detail, sizeof detail);
  detail[sizeof detail - 1] = 0;
  if (detail[0]) message_ += std::string(" (") + detail + ")";
}

namespace {

constexpr size_t kMaxWorkspace = size_t(256) << 20;
constexpr int64_t kNotes = 32;  // more than there are kinds of

// The same numbers in every run, and f32 where ops.h says f32: no TF32, no transforms that lose digits.
std::string whyNot(const std::vector<NumericalNote>& notes, bool narrow) {
  const auto has = [&](NumericalNote note) { return std::find(notes.begin(), notes.end(), note) != notes.end(); };
  if (has(NumericalNote::nondeterministic)) return "depends on chance";
  if (has(NumericalNote::downConvertInputs) || has(NumericalNote::reducedPrecisionReduction))
    return "computes in less than the given precision";
  if (has(NumericalNote::tensorCore) && !narrow) return "computes in TF32";
  if (has(NumericalNote::fft) || has(NumericalNote::winogradTile6x6) || has(NumericalNote::winogradTile13x13) ||
      (has(NumericalNote::winograd) && narrow))
    return "loses precision in a transform";
  return "";
}

class Search {
 public:
  Search(const Api& api, Handle handle, const ConvProblem& problem, Epilogue epilogue, size_t most,
         std::vector<Plan>& plans)
      : api_(api), handle_(handle), problem_(problem), epilogue_(epilogue), most_(plans.size() + most), plans_(plans) {}

  std::string run() {
    const size_t before = plans_.size();
    for (HeuristicMode mode : {HeuristicMode::a, HeuristicMode::fallback}) {
      if (mode == HeuristicMode::fallback && plans_.size() > before) break;
      attempt([&] { tryAll(mode); });
    }
    return why_;
  }

 private:
  template <class F>
  void attempt(F f) {
    try {
      f();
    } catch (const Failed& e) {
      why_ = e.what();
    }
  }

  std::shared_ptr<const Advice> ask(HeuristicMode mode) {
    Graph graph = buildGraph(api_, handle_, problem_, epilogue_);
    Descriptor heuristics(api_, DescriptorType::engineHeuristics);
    heuristics.set(Attribute::heuristicsGraph, graph.graph()).set(Attribute::heuristicsMode, mode).finalize();
    std::vector<Descriptor> configs;
    for (int64_t i = heuristics.count(Attribute::heuristicsResults); i > 0; --i)
      configs.emplace_back(api_, DescriptorType::engineConfig);
    const int64_t count = configs.empty() ? 0 : heuristics.fill(Attribute::heuristicsResults, configs);
    while (int64_t(configs.size()) > count) configs.pop_back();
    return std::make_shared<Advice>(Advice{std::move(graph), std::move(heuristics), std::move(configs)});
  }

  void tryAll(HeuristicMode mode) {
    const std::shared_ptr<const Advice> advice = ask(mode);
    if (advice->configs.empty()) why_ = "its heuristics know no engine";
    for (const Descriptor& config : advice->configs)
      if (plans_.size() < most_) attempt([&] { tryOne(advice, config); });
  }

  void tryOne(const std::shared_ptr<const Advice>& advice, const Descriptor& config) {
    std::vector<Descriptor> engines;
    engines.emplace_back(api_, DescriptorType::engine);
    config.fill(Attribute::configEngine, engines);
    const Descriptor& engine = engines[0];
    const std::string name = "engine " + std::to_string(engine.get<int64_t>(Attribute::engineIndex, 1).at(0));
    const bool narrow = problem_.image.dtype != DType::f32;
    const std::string problem = whyNot(engine.get<NumericalNote>(Attribute::engineNumericalNotes, kNotes), narrow);
    if (!problem.empty()) {
      why_ = name + " " + problem;
      return;
    }
    Descriptor plan(api_, DescriptorType::executionPlan);
    plan.set(Attribute::planConfig, config).finalize();
    const int64_t workspace = plan.get<int64_t>(Attribute::planWorkspaceSize, 1).at(0);
    if (workspace < 0 || size_t(workspace) > kMaxWorkspace) {
      why_ = name + " wants a workspace of " + std::to_string(workspace) + " bytes";
      return;
    }
    const char* how = problem_.kind == ConvKind::wgrad || epilogue_ == Epilogue::none ? ""
                      : epilogue_ == Epilogue::fused                                  ? " (fused)"
                                                                                      : " (our epilogue)";
    plans_.push_back({advice, epilogue_, size_t(workspace), "cuDNN " + name + how, std::move(plan)});
  }

  const Api& api_;
  const Handle handle_;
  const ConvProblem& problem_;
  const Epilogue epilogue_;
  const size_t most_;
  std::vector<Plan>& plans_;
  std::string why_;
};

}  // namespace

std::string buildPlans(const Api& api, Handle handle, const ConvProblem& problem, Epilogue epilogue, size_t most,
                       std::vector<Plan>& plans) {
  return Search(api, handle, problem, epilogue, most, plans).run();
}

void execute(const Api& api, Handle handle, const Plan& plan, const Addresses& addresses, void* workspace) {
  Descriptor pack(api, DescriptorType::variantPack);
  pack.set(Attribute::packIds, addresses.ids)
      .setPointers(Attribute::packPointers, addresses.pointers)
      .setPointers(Attribute::packWorkspace, {workspace})
      .finalize();
  check(api, api.execute(handle, plan.plan.raw(), pack.raw()), "cudnnBackendExecute");
}

}  // namespace ddpm::cuda::cudnn
