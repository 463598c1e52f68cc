#include "kernels/cuda/trial.h"

#include <algorithm>

#include "kernels/cuda/cudnn/cudnn.h"

namespace ddpm::cuda {
namespace {

// The unit that is timed is a recording of several launches, since the host may take longer to launch a kernel than the
// device to execute it: as many as take so long, but no more than kLaunches.
constexpr float kUnitMilliseconds = 5;
constexpr int kLaunches = 10;
constexpr int kRuns = 3;                    // of the unit; the best counts
constexpr float kHostMilliseconds = 0.05f;  // what the time of a single launch may have of the host's

constexpr int64_t kNoise = int64_t(1) << 22;  // numbers that are drawn; larger operands repeat them

}  // namespace

void Trial::set(const ConvProblem& problem) {
  releaseAll();
  problem_ = problem;
  ConvProblem& p = problem_;
  const bool inPlace = p.inPlace();
  int64_t largest = 0;
  for (const Tensor* t : {&p.image, &p.filter, &p.response}) largest = std::max(largest, int64_t(t->rows()) * t->ld);
  makeNoise(std::min(largest, kNoise));
  for (Tensor* t : {&p.image, &p.filter, &p.response, &p.bias, &p.sampleBias, &p.dBias}) place(*t);
  if (inPlace)
    p.residual.data = p.result().data;
  else
    place(p.residual);
}

float Trial::time(const std::string& name, const OwnAlgorithm& own, float best) {
  Tensor packed = {.n = 1, .c = int32_t(own.plan.packedBytes / sizeof(float))};
  packed.ld = packed.c;
  if (packed.c > 0) packed.data = allocate(own.plan.packedBytes);
  if (packed) fill(packed);
  void* scratch = allocate(own.scratch);
  return measure(
      name, [&] { own.run(watch_.device(), problem_, packed.data, scratch); }, best);
}

float Trial::timePlan(const std::string& name, int plan, float best) {
  void* scratch = allocate(cudnn::scratch(watch_.device(), problem_, plan));
  return measure(
      name, [&] { cudnn::run(watch_.device(), problem_, scratch, plan); }, best);
}

float Trial::measure(const std::string& name, const std::function<void()>& work, float best) {
  CudaDevice& device = watch_.device();
  work();  // loads code
  const float once = watch_.time(name, work);
  if (best >= 0 && once > 2 * best + kHostMilliseconds) return once;
  const int launches = std::clamp(int(kUnitMilliseconds / std::max(once, 1e-3f)), 1, kLaunches);

  device.beginRecording();  // what can't be recorded is no candidate: programs are
  try {
    for (int i = 0; i < launches; ++i) work();
  } catch (...) {
    try {
      device.release(device.endRecording());
    } catch (const BackendError&) {  // of what cannot be finished; the first error counts
    }
    throw;
  }
  struct Unit {
    CudaDevice& device;
    Recording* recording;
    ~Unit() { device.release(recording); }
  } unit{device, device.endRecording()};
  device.replay(unit.recording);  // fills caches
  float fastest = 0;
  for (int i = 0; i < kRuns; ++i) {
    const float time = watch_.time(
        name, [&] { device.replay(unit.recording); }, launches);
    fastest = i == 0 ? time : std::min(fastest, time);
  }
  return fastest / float(launches);
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory

void* Trial::allocate(size_t bytes) {
  memory_.push_back(nullptr);
  return memory_.back() = watch_.device().allocate(bytes);
}

// With the alignment that it will have.
void Trial::place(Tensor& t) {
  if (!t) return;
  const size_t offset = alignmentOf(t) == 16 ? 0 : size_t(alignmentOf(t));
  t.data = static_cast<char*>(allocate(offset + size_t(t.rows()) * size_t(t.ld) * sizeOf(t.dtype))) + offset;
  fill(t);
}

// Normal numbers of a stream of Philox's.
void Trial::makeNoise(int64_t count) {
  CudaDevice& device = watch_.device();
  const int32_t zeros[4] = {};
  void* stream = allocate(sizeof zeros);
  device.copyIn(stream, zeros, sizeof zeros);
  const auto flat = [](void* data, int64_t c, DType dtype) {
    return Tensor{.data = data, .n = 1, .h = 1, .w = 1, .c = int32_t(c), .ld = int32_t(c), .dtype = dtype};
  };
  noise_ = flat(allocate(size_t(count) * sizeof(float)), count, DType::f32);
  run(device,
      GaussianNoise{flat(stream, 4, DType::i32), flat(stream, 1, DType::i32), flat(stream, 1, DType::i32), noise_, 0},
      nullptr);
}

// All of its memory, what lies between its rows included.
void Trial::fill(const Tensor& t) {
  const int64_t total = int64_t(t.rows()) * t.ld;
  for (int64_t done = 0; done < total; done += noise_.c) {
    Tensor from = noise_, to = noise_;
    from.c = to.c = int32_t(std::min<int64_t>(total - done, noise_.c));
    from.ld = to.ld = from.c;
    to.dtype = t.dtype;
    to.data = static_cast<char*>(t.data) + size_t(done) * sizeOf(t.dtype);
    run(watch_.device(), Copy{from, to, 0}, nullptr);
  }
}

void Trial::releaseAll() {
  for (void* memory : memory_) watch_.device().release(memory);
  memory_.clear();
}

}  // namespace ddpm::cuda
