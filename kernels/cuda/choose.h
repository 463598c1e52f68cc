// Which algorithm computes a convolution: the fastest of our own, in each tile and number of parts that makes sense,
// and the plans of cuDNN. They are timed once for each shape, for the process and, by way of a file, for those that
// come after it (tuning_file.h); times vary, so that without the file another process may choose otherwise. With
// `deterministic` nothing is timed, and cuDNN, whose choice of a kernel depends on the batch size, does not count.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/conv_problem.h"
#include "kernels/cuda/device.h"

namespace ddpm::cuda {

// An algorithm of our own: what it is planned as, the scratch memory it wants, and how it is put on a device's stream.
struct OwnAlgorithm {
  ConvPlan plan;
  size_t scratch;
  std::function<void(CudaDevice&, const ConvProblem&, const void* packed, void* scratch)> run;
};

// What is to be timed for a program.
class Gathered {
 public:
  void add(const ConvProblem& problem, std::vector<OwnAlgorithm> own);

  // Chooses for each problem, those with the most arithmetic first: there are limits on the time (choose.cpp), and the
  // program that is compiled runs them most. Until `stop`.
  void choose(const CudaDevice& device, const std::atomic<bool>& stop);

 private:
  struct Problem {
    ConvProblem problem;
    std::vector<OwnAlgorithm> own;
  };
  std::vector<Problem> problems_;
};

// The choice for a problem if there is one, else the first of `own`; and what can be timed is added to
// PlanOptions::gathered, where there is one.
ConvPlan choose(const CudaDevice& device, const ConvProblem& problem, const PlanOptions& options,
                const std::vector<OwnAlgorithm>& own);

// For the three ops of convolutions. `own` are the plans that scratch() and run() of the op serve, the first of them
// the one to take where nothing is timed.
template <class Op>
ConvPlan choose(const CudaDevice& device, const Op& op, const PlanOptions& options, const std::vector<ConvPlan>& own) {
  const ConvProblem problem = problemOf(op);
  std::vector<OwnAlgorithm> algorithms;
  for (const ConvPlan& plan : own) {
    Op planned;
    setOp(planned, problem, plan, nullptr);
    algorithms.push_back({plan, scratch(device, planned),
                          [plan](CudaDevice& on, const ConvProblem& p, const void* packed, void* memory) {
                            Op trial;
                            setOp(trial, p, plan, packed);
                            run(on, trial, memory);
                          }});
  }
  return choose(device, problem, options, algorithms);
}

}  // namespace ddpm::cuda
