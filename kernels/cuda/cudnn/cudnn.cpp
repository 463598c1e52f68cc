#include "kernels/cuda/cudnn/cudnn.h"

#include <map>
#include <memory>
#include <mutex>

#include "kernels/cuda/cudnn/epilogue.h"
#include "kernels/cuda/cudnn/library.h"
#include "kernels/cuda/cudnn/plans.h"
#include "kernels/cuda/tuning.h"

namespace ddpm::cuda::cudnn {
namespace {

constexpr size_t kPlans = 2;  // of a graph; building one may take a second

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t separateBytes(const ConvProblem& problem, Epilogue epilogue) {
  if (epilogue != Epilogue::separate) return 0;
  const Tensor t = separateResult(problem);
  return aligned(size_t(t.elements()) * sizeOf(t.dtype));
}

// cuDNN on one device, for all that use the device in this process. Building a plan may take seconds, for which nobody
// who runs one waits: each has a handle of cuDNN and a lock of its own. A plan is a graph's and not a handle's.
class Convolver {
 public:
  explicit Convolver(const Library& library) : api_(library.api) {}

  std::vector<std::string> plans(const ConvProblem& problem, std::string* why) {
    const std::lock_guard builds(building_);  // nobody else adds to the table
    const auto key = problem.key();
    const bool known = [&] {
      const std::lock_guard guard(lock_);
      return entries_.count(key) > 0;
    }();
    if (!known) {
      Entry built = build(problem);
      const std::lock_guard guard(lock_);
      entries_.emplace(key, std::move(built));
    }
    const std::lock_guard guard(lock_);
    const Entry& entry = entries_.at(key);
    *why = entry.why;
    std::vector<std::string> names;
    for (const Plan& plan : entry.plans) names.push_back(plan.name);
    return names;
  }

  void keep(const ConvProblem& problem, int number) {
    const std::lock_guard guard(lock_);
    const auto found = entries_.find(problem.key());
    if (found == entries_.end() || found->second.kept) return;  // a plan that programs may use stays
    Entry& entry = found->second;
    std::vector<Plan> kept;
    if (number >= 0) kept.push_back(std::move(entry.plans.at(size_t(number))));
    entry.kept = number >= 0;
    entry.plans = std::move(kept);
    if (!entry.kept) entries_.erase(found);
  }

  size_t scratch(const ConvProblem& problem, int number) {
    const std::lock_guard guard(lock_);
    const Plan& plan = planOf(problem, number);
    return separateBytes(problem, plan.epilogue) + aligned(finishScratch(problem)) + plan.workspace;
  }

  void run(CudaDevice& device, const ConvProblem& problem, void* scratch, int number) {
    const Plan& plan = [&]() -> const Plan& {
      const std::lock_guard guard(lock_);
      return planOf(problem, number);
    }();
    char* ours = static_cast<char*>(scratch) + separateBytes(problem, plan.epilogue);
    void* workspace = plan.workspace ? ours + aligned(finishScratch(problem)) : nullptr;
    const auto work = [this, &plan, stream = device.stream(), workspace, what = problem.describe(),
                       addresses = addressesOf(problem, plan.epilogue, scratch)] {
      const std::lock_guard runs(running_);
      try {
        check(api_, api_.setStream(runner_, stream), "cudnnSetStream");
        execute(api_, runner_, plan, addresses, workspace);
      } catch (const Failed& e) {
        throw BackendError(ErrorCode::internal, what + ": " + plan.name + ": " + e.what());
      }
    };
    issue(work);
    if (plan.epilogue != Epilogue::separate) return;
    Tensor convolution = separateResult(problem);
    convolution.data = scratch;
    finish(device, problem, convolution, ours);
  }

 private:
  struct Entry {
    std::vector<Plan> plans;
    std::string why;    // there are not more
    bool kept = false;  // there is one, which was chosen
  };

  const Plan& planOf(const ConvProblem& problem, int number) {
    const auto found = entries_.find(problem.key());
    if (found == entries_.end() || size_t(number) >= found->second.plans.size())
      throw BackendError(ErrorCode::internal, problem.describe() + ": no plan of cuDNN was chosen for it");
    return found->second.plans[size_t(number)];
  }

  // Both, before there is a plan to run: a stream that is captured has no place for it.
  void createHandles() {
    if (!builder_) {
      Handle builder = nullptr;
      check(api_, api_.create(&builder), "cudnnCreate");
      builder_ = builder;
    }
    const std::lock_guard runs(running_);
    if (!runner_) {
      Handle runner = nullptr;
      check(api_, api_.create(&runner), "cudnnCreate");
      runner_ = runner;
    }
  }

  Entry build(const ConvProblem& problem) {
    Entry entry;
    try {
      createHandles();
    } catch (const Failed& e) {
      entry.why = e.what();
      return entry;
    }
    const auto add = [&](Epilogue epilogue) {
      const std::string why = buildPlans(api_, builder_, problem, epilogue, kPlans, entry.plans);
      if (!why.empty()) entry.why = why;
    };
    // The gradient of the weights is added to what is there, by us: few engines can.
    if (problem.kind == ConvKind::wgrad) {
      add(Epilogue::separate);
    } else if (!problem.hasAddends()) {
      add(Epilogue::none);
    } else {
      if (!problem.inPlace()) add(Epilogue::fused);  // that one may write over what it adds is not documented
      add(Epilogue::separate);
    }
    return entry;
  }

  const Api& api_;
  std::mutex building_;  // of the builder; taken before lock_
  Handle builder_ = nullptr;
  std::mutex running_;  // of the runner
  Handle runner_ = nullptr;
  std::mutex lock_;  // of the table, for moments
  std::map<std::vector<int64_t>, Entry> entries_;
};

// Null with the reason when there is no library. Never destroyed: when the process ends, the driver may be gone first.
Convolver* convolverOf(const CudaDevice& device, std::string* why) {
  static std::mutex lock;
  static auto& convolvers = *new std::map<int32_t, std::unique_ptr<Convolver>>;
  const Library* found = library(why);
  if (!found) return nullptr;
  device.use();
  const std::lock_guard guard(lock);
  std::unique_ptr<Convolver>& convolver = convolvers[device.index()];
  if (!convolver) convolver = std::make_unique<Convolver>(*found);
  return convolver.get();
}

Convolver& existing(const CudaDevice& device) {
  std::string why;
  Convolver* convolver = convolverOf(device, &why);
  if (!convolver) throw BackendError(ErrorCode::internal, why);
  return *convolver;
}

}  // namespace

std::string version() {
  std::string why;
  const Library* found = library(&why);
  return found ? "cuDNN " + found->version : "no cuDNN";
}

std::vector<std::string> plans(const CudaDevice& device, const ConvProblem& problem, std::string* why) {
  for (const Tensor* t : {&problem.image, &problem.filter, &problem.response})
    if (t->elements() == 0) {
      *why = "there is nothing to compute";
      return {};
    }
  Convolver* convolver = convolverOf(device, why);
  return convolver ? convolver->plans(problem, why) : std::vector<std::string>();
}

void keep(const CudaDevice& device, const ConvProblem& problem, int plan) { existing(device).keep(problem, plan); }

size_t scratch(const CudaDevice& device, const ConvProblem& problem, int plan) {
  return existing(device).scratch(problem, plan);
}

void run(CudaDevice& device, const ConvProblem& problem, void* scratch, int plan) {
  existing(device).run(device, problem, scratch, plan);
}

}  // namespace ddpm::cuda::cudnn
