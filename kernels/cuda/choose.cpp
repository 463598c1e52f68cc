#include "kernels/cuda/choose.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>

#include "kernels/cuda/cudnn/cudnn.h"
#include "kernels/cuda/trial.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/tuning_file.h"

namespace ddpm::cuda {
namespace {

// All that a process spends on timing, and on building the plans that are timed.
constexpr double kMaxSeconds = 30;

// "tile128x64 in 4 parts".
std::string nameOf(const ConvPlan& plan) {
  const std::string name = ddpm::nameOf(plan.algo);
  return plan.splits > 1 ? name + " in " + std::to_string(plan.splits) + " parts" : name;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Choice {
  int own = 0;       // index, or
  int plan = -1;     // of cuDNN
  std::string name;  // empty where none could be timed
  std::string note;
};

struct Candidate {
  int own, plan;
  std::string name;
  float milliseconds = -1;
  std::string failure;
};

std::vector<Candidate> candidatesOf(const std::vector<OwnAlgorithm>& own, const std::vector<std::string>& plans) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < own.size(); ++i) candidates.push_back({int(i), -1, nameOf(own[i].plan)});
  for (size_t i = 0; i < plans.size(); ++i) candidates.push_back({-1, int(i), plans[i]});
  return candidates;
}

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

Choice timed(Trial& trial, const ConvProblem& problem, const std::vector<OwnAlgorithm>& own,
             std::vector<Candidate> candidates) {
  const double start = now();
  trial.set(problem);
  const Candidate* best = nullptr;
  for (Candidate& c : candidates) {
    const float fastest = best ? best->milliseconds : -1;
    try {
      c.milliseconds =
          c.plan < 0 ? trial.time(c.name, own[size_t(c.own)], fastest) : trial.timePlan(c.name, c.plan, fastest);
      if (!best || c.milliseconds < fastest) best = &c;
    } catch (const BackendError& e) {
      c.failure = e.what();
    }
  }
  const std::string name = best ? best->name : "";
  if (!best) best = &candidates.front();
  return {best->own, best->plan, name, noteOf(problem, candidates, *best, now() - start)};
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
  return choice.plan >= 0 ? ConvPlan{ConvAlgo::library, 0} : own.at(size_t(choice.own)).plan;
}

// Of a process, by device and problem.
class Choices {
 public:
  std::optional<Choice> find(const CudaDevice& device, const ConvProblem& problem) {
    const std::lock_guard guard(lock_);
    const auto found = choices_.find({device.index(), problem.key()});
    return found == choices_.end() ? std::nullopt : std::optional(found->second);
  }
  void add(const CudaDevice& device, const ConvProblem& problem, const Choice& choice) {
    const std::lock_guard guard(lock_);
    choices_[{device.index(), problem.key()}] = choice;
  }

 private:
  std::mutex lock_;  // for moments
  std::map<std::pair<int32_t, std::vector<int64_t>>, Choice> choices_;
};

Choices& choices() {
  static Choices& all = *new Choices;
  return all;
}

std::vector<std::string> plansOf(const CudaDevice& device, const ConvProblem& problem) {
  std::string why;
  std::vector<std::string> plans = cudnn::plans(device, problem, &why);
  if (plans.empty()) say(why.rfind("no cuDNN", 0) == 0 ? why : problem.describe() + ": no plan of cuDNN: " + why);
  return plans;
}

// The library as asked for: tests do.
ConvPlan forced(const CudaDevice& device, const ConvProblem& problem, const std::vector<OwnAlgorithm>& own) {
  const std::vector<std::string> plans = plansOf(device, problem);
  if (plans.empty()) return own.front().plan;
  cudnn::keep(device, problem, 0);
  say(problem.describe() + ": " + plans.front() + ", as asked for");
  return {ConvAlgo::library, 0};
}

ConvPlan chooseAny(const CudaDevice& device, const ConvProblem& problem, const PlanOptions& options,
                   const std::vector<OwnAlgorithm>& own) {
  const ConvPlan& usual = own.front().plan;
  if (options.deterministic || problem.result().elements() == 0) return usual;
  if (options.forceAlgo >= 0) return options.forceAlgo == int(ConvAlgo::library) ? forced(device, problem, own) : usual;
  if (!Stopwatch::works()) return usual;
  if (const std::optional<Choice> known = choices().find(device, problem)) {
    say(known->note);
    return planOf(*known, own);
  }
  if (options.gathered) reinterpret_cast<Gathered*>(options.gathered)->add(problem, own);
  return usual;
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

void Gathered::add(const ConvProblem& problem, std::vector<OwnAlgorithm> own) {
  const auto same = [&](const Problem& p) { return p.problem.key() == problem.key(); };
  if (std::none_of(problems_.begin(), problems_.end(), same)) problems_.push_back({problem, std::move(own)});
}

namespace {

// One at a time in a process: others would disturb its times.
class Chooser {
 public:
  Chooser(const CudaDevice& device, double& spent)
      : device_(device),
        spent_(spent),
        file_(tuningFolder(), identityOf(device) + ", ddpm-native " DDPM_VERSION ", " + cudnn::version()) {}
  ~Chooser() { file_.save(); }

  void choose(const ConvProblem& problem, const std::vector<OwnAlgorithm>& own) {
    const double start = now();
    if (spent_ > kMaxSeconds) {
      say(problem.describe() + ": " + nameOf(own.front().plan) + ", not timed: " + std::to_string(int(kMaxSeconds)) +
          " s were spent on timing");
      return;
    }
    try {
      const std::vector<std::string> plans = plansOf(device_, problem);
      const std::vector<Candidate> candidates = candidatesOf(own, plans);
      if (candidates.size() > 1) {
        const Choice choice = choose(problem, own, candidates);
        if (!plans.empty()) cudnn::keep(device_, problem, choice.plan);
        choices().add(device_, problem, choice);
        say(choice.note);
      }
    } catch (const std::exception& e) {
      say(problem.describe() + ": " + e.what());
    }
    spent_ += now() - start;
  }

 private:
  Choice choose(const ConvProblem& problem, const std::vector<OwnAlgorithm>& own,
                const std::vector<Candidate>& candidates) {
    const std::string earlier = file_.find(problem.key());
    for (const Candidate& c : candidates)
      if (c.name == earlier) return {c.own, c.plan, c.name, problem.describe() + ": " + c.name + ", as timed earlier"};
    if (!trial_) trial_ = std::make_unique<Trial>(device_);
    const Choice choice = timed(*trial_, problem, own, candidates);
    if (!choice.name.empty()) file_.add(problem.key(), choice.name);
    return choice;
  }

  const CudaDevice& device_;
  double& spent_;  // seconds
  TuningFile file_;
  std::unique_ptr<Trial> trial_;
};

}  // namespace

void Gathered::choose(const CudaDevice& device, const std::atomic<bool>& stop) {
  static std::mutex lock;
  static double spent = 0;
  std::stable_sort(problems_.begin(), problems_.end(), [](const Problem& a, const Problem& b) {
    return a.problem.multiplications() > b.problem.multiplications();
  });
  if (problems_.empty()) return;
  const std::lock_guard guard(lock);
  Chooser chooser(device, spent);
  for (const auto& [problem, own] : problems_) {
    if (stop) return;
    if (!choices().find(device, problem)) chooser.choose(problem, own);  // another program may have had it
  }
}

}  // namespace ddpm::cuda
