#include "kernels/cuda/choose.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>

#include "kernels/cuda/cudnn/cudnn.h"
#include "kernels/cuda/tuning.h"

namespace ddpm::cuda {
namespace {

// All that a process spends on timing, and on building the plans that are timed.
constexpr double kMaxSeconds = 30;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Memory that the candidates of a problem are tried on. Its contents don't matter.
class Trial {
 public:
  Trial(const CudaDevice& device, const ConvProblem& problem) : watch_(device), problem_(problem) {
    ConvProblem& p = problem_;
    const bool inPlace = p.inPlace();
    for (Tensor* t : {&p.image, &p.filter, &p.response, &p.bias, &p.sampleBias, &p.dBias}) place(*t);
    if (inPlace)
      p.residual.data = p.result().data;
    else
      place(p.residual);
  }
  ~Trial() {
    for (void* memory : memory_) {
      try {
        watch_.device().release(memory);
      } catch (const BackendError&) {  // the next call will say so
      }
    }
  }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  float time(const OwnAlgorithm& own) {
    void *packed = own.plan.packedBytes ? allocate(own.plan.packedBytes) : nullptr, *scratch = allocate(own.scratch);
    return watch_.time(nameOf(own.plan.algo), [&] { own.run(watch_.device(), problem_, packed, scratch); });
  }
  float timePlan(const std::string& name, int plan) {
    void* scratch = allocate(cudnn::scratch(watch_.device(), problem_, plan));
    return watch_.time(name, [&] { cudnn::run(watch_.device(), problem_, scratch, plan); });
  }

 private:
  void* allocate(size_t bytes) {
    memory_.push_back(nullptr);
    return memory_.back() = watch_.device().allocate(bytes);
  }
  // With the alignment that it will have.
  void place(Tensor& t) {
    if (!t) return;
    const size_t offset = alignmentOf(t) == 16 ? 0 : size_t(alignmentOf(t));
    t.data = static_cast<char*>(allocate(offset + size_t(t.rows()) * size_t(t.ld) * sizeOf(t.dtype))) + offset;
  }

  Stopwatch watch_;
  ConvProblem problem_;
  std::vector<void*> memory_;
};

struct Choice {
  int own = 0;    // index, or
  int plan = -1;  // of cuDNN
  std::string note;
};

struct Candidate {
  int own, plan;
  std::string name;
  float milliseconds = -1;
  std::string failure;
};

std::string noteOf(const ConvProblem& problem, const std::vector<Candidate>& candidates, const Candidate& best,
                   double seconds) {
  std::string text = problem.describe() + ": " + best.name + "; timed: ";
  for (const Candidate& c : candidates) {
    char part[64];
    std::snprintf(part, sizeof part, " %.3f ms, ", double(c.milliseconds));
    text += c.name + (c.failure.empty() ? part : " failed (" + c.failure + "), ");
  }
  char end[64];
  std::snprintf(end, sizeof end, "in %.2f s", seconds);
  return text + end;
}

// Under a lock: one thing at a time is timed in a process.
Choice timed(const CudaDevice& device, const ConvProblem& problem, const std::vector<OwnAlgorithm>& own,
             const std::vector<std::string>& plans) {
  const double start = now();
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < own.size(); ++i) candidates.push_back({int(i), -1, nameOf(own[i].plan.algo)});
  for (size_t i = 0; i < plans.size(); ++i) candidates.push_back({-1, int(i), plans[i]});
  std::unique_ptr<Trial> trial;
  for (Candidate& c : candidates) {
    try {
      if (!trial) trial = std::make_unique<Trial>(device, problem);
      c.milliseconds = c.plan < 0 ? trial->time(own[size_t(c.own)]) : trial->timePlan(c.name, c.plan);
    } catch (const BackendError& e) {
      c.failure = e.what();
    }
  }
  const Candidate* best = &candidates.front();
  for (const Candidate& c : candidates)
    if (c.failure.empty() && (!best->failure.empty() || c.milliseconds < best->milliseconds)) best = &c;
  return {best->own, best->plan, noteOf(problem, candidates, *best, now() - start)};
}

// Why an algorithm was chosen, with `plan` among the words of DDPM_DEBUG; each once.
void say(const std::string& note) {
  const char* debug = std::getenv("DDPM_DEBUG");
  std::stringstream words(debug ? debug : "");
  bool wanted = false;
  for (std::string word; std::getline(words, word, ',');) wanted = wanted || word == "plan";
  static std::mutex lock;
  static auto& said = *new std::set<std::string>;
  if (!wanted) return;
  const std::lock_guard guard(lock);
  if (said.insert(note).second) std::fprintf(stderr, "ddpm-native: %s\n", note.c_str());
}

ConvPlan planOf(const Choice& choice, const std::vector<OwnAlgorithm>& own) {
  return choice.plan >= 0 ? ConvPlan{ConvAlgo::library, 0} : own[size_t(choice.own)].plan;
}

ConvPlan chooseAny(const CudaDevice& device, const ConvProblem& problem, const PlanOptions& options,
                   const std::vector<OwnAlgorithm>& own) {
  static std::mutex lock;
  static auto& choices = *new std::map<std::pair<int32_t, std::vector<int64_t>>, Choice>;
  static double spent = 0;

  const bool forced = options.forceAlgo == int(ConvAlgo::library);
  if (options.deterministic || (options.forceAlgo >= 0 && !forced) || (!forced && !Stopwatch::works()) ||
      problem.result().elements() == 0)
    return own.front().plan;

  const std::lock_guard guard(lock);
  const std::pair key(device.index(), problem.key());
  if (const auto found = choices.find(key); found != choices.end() && !forced) {
    say(found->second.note);
    return planOf(found->second, own);
  }
  const double start = now();
  if (!forced && spent > kMaxSeconds) {
    say(problem.describe() + ": " + nameOf(own.front().plan.algo) + ", not timed: " + std::to_string(int(kMaxSeconds)) +
        " s were spent on timing");
    return own.front().plan;
  }
  std::string why;
  const std::vector<std::string> plans = cudnn::plans(device, problem, &why);
  if (plans.empty()) say(why.rfind("no cuDNN", 0) == 0 ? why : problem.describe() + ": no plan of cuDNN: " + why);
  Choice choice;
  if (forced) {
    if (plans.empty()) return own.front().plan;
    choice = {-1, 0, problem.describe() + ": " + plans.front() + ", as asked for"};
  } else if (plans.empty() && own.size() == 1) {
    return own.front().plan;
  } else {
    choice = timed(device, problem, own, plans);
  }
  if (!plans.empty()) cudnn::keep(device, problem, choice.plan);
  if (!forced) choices[key] = choice;
  spent += now() - start;
  say(choice.note);
  return planOf(choice, own);
}

}  // namespace

// Whatever goes wrong here, our own kernels can do it.
ConvPlan choose(const CudaDevice& device, const ConvProblem& problem, const PlanOptions& options,
                const std::vector<OwnAlgorithm>& own) {
  try {
    return chooseAny(device, problem, options, own);
  } catch (const std::exception& e) {
    say(problem.describe() + ": " + e.what());
    return own.front().plan;
  }
}

}  // namespace ddpm::cuda
