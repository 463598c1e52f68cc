// A convolution as an operation graph of cuDNN.
#pragma once
#include <vector>

#include "kernels/cuda/conv_problem.h"
#include "kernels/cuda/cudnn/descriptor.h"

namespace ddpm::cuda::cudnn {

// What is added to the result of the convolution (ConvProblem::hasAddends, or the gradient that is already there):
enum class Epilogue : int32_t {
  none,      // nothing
  fused,     // by operations of the same graph
  separate,  // by a kernel of our own: the graph writes to a dense f32 tensor in scratch memory
};

// Ids of the graph's tensors.
enum class Id : int64_t { image = 1, filter, response, bias, sampleBias, residual, firstVirtual };

struct Graph {
  std::vector<Descriptor> parts;  // of the graph, which comes last

  explicit Graph(std::vector<Descriptor> parts) : parts(std::move(parts)) {}
  Graph(Graph&&) = default;
  ~Graph() {
    while (!parts.empty()) parts.pop_back();  // users before what they use
  }
  const Descriptor& graph() const { return parts.back(); }
};

// Throws Failed.
Graph buildGraph(const Api& api, Handle handle, const ConvProblem& problem, Epilogue epilogue);

// The tensor that the graph of a separate epilogue writes to, without its address.
Tensor separateResult(const ConvProblem& problem);

// The addresses of a graph's tensors, to be given with their ids. `separate` is that of separateResult.
struct Addresses {
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
};
Addresses addressesOf(const ConvProblem& problem, Epilogue epilogue, void* separate);

}  // namespace ddpm::cuda::cudnn
