// Tries the algorithms of convolutions on a stream and memory of its own, beside whatever the device is doing. All of
// it is given back at its end.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/choose.h"
#include "kernels/cuda/tuning.h"

namespace ddpm::cuda {

class Trial {
 public:
  // Throws BackendError, as all of its methods do.
  explicit Trial(const CudaDevice& device) : watch_(device) {}
  ~Trial() { releaseAll(); }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  // What is tried from now on. Its operands hold normal numbers: the time of a product depends on its bits, as more
  // power makes slower clocks.
  void set(const ConvProblem& problem);

  // Milliseconds of one launch. What takes much longer than `best` is launched but a few times.
  float time(const std::string& name, const OwnAlgorithm& own, float best);
  float timePlan(const std::string& name, int plan, float best);  // of cuDNN

 private:
  float measure(const std::string& name, const std::function<void()>& work, float best);
  void* allocate(size_t bytes);
  void place(Tensor& t);
  void makeNoise(int64_t count);
  void fill(const Tensor& t);
  void releaseAll();

  Stopwatch watch_;
  ConvProblem problem_;
  std::vector<void*> memory_;
  Tensor noise_;
};

}  // namespace ddpm::cuda
