// cuDNN as one more way to compute a convolution. The library is opened where it is first asked for; on machines
// without it, plans() is empty and says why, and nothing else here is called.
//
// A plan is built when a program is compiled and kept for the process, by device and ConvProblem::key, so that running
// it only puts work on the device's stream: it may be recorded into a CUDA graph (in a mode that lets other threads
// allocate: plans may be built at the same time). Any thread. A device has two handles of cuDNN in a process, each with
// a lock: one to build plans, which may take seconds, and one to run them, which waits for no build.
#pragma once
#include <string>
#include <vector>

#include "kernels/cuda/conv_problem.h"
#include "kernels/cuda/device.h"

namespace ddpm::cuda::cudnn {

// "cuDNN 9.5.1", or "no cuDNN". Opens it.
std::string version();

// Names of the plans that compute it, best first by cuDNN's heuristics; none with the reason in `why`. Plans whose
// results would depend on chance are left out, and so are those that round more than ops.h allows.
std::vector<std::string> plans(const CudaDevice& device, const ConvProblem& problem, std::string* why);

// Keeps that plan, as number 0, and no other; or none with a `plan` of -1.
void keep(const CudaDevice& device, const ConvProblem& problem, int plan);

// Bytes; of shapes only, but for ConvProblem::key.
size_t scratch(const CudaDevice& device, const ConvProblem& problem, int plan = 0);

// Throws BackendError.
void run(CudaDevice& device, const ConvProblem& problem, void* scratch, int plan = 0);

}  // namespace ddpm::cuda::cudnn
