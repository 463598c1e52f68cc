#include "kernels/cuda/cudnn/graph.h"

#include <algorithm>
#include <array>

namespace ddpm::cuda::cudnn {
namespace {

DataType dataType(DType t) {
  return t == DType::f16 ? DataType::f16 : t == DType::bf16 ? DataType::bf16 : DataType::f32;
}

// The attributes of each of the three operations.
struct OperationNames {
  DescriptorType type;
  Attribute image, filter, response, convolution, alpha, beta;
};
const OperationNames& namesOf(ConvKind kind) {
  static const std::array<OperationNames, 3> names = {{
      {DescriptorType::convolutionForward, Attribute::forwardX, Attribute::forwardW, Attribute::forwardY,
       Attribute::forwardConvolution, Attribute::forwardAlpha, Attribute::forwardBeta},
      {DescriptorType::convolutionBackwardData, Attribute::backwardDataDx, Attribute::backwardDataW,
       Attribute::backwardDataDy, Attribute::backwardDataConvolution, Attribute::backwardDataAlpha,
       Attribute::backwardDataBeta},
      {DescriptorType::convolutionBackwardFilter, Attribute::backwardFilterX, Attribute::backwardFilterDw,
       Attribute::backwardFilterDy, Attribute::backwardFilterConvolution, Attribute::backwardFilterAlpha,
       Attribute::backwardFilterBeta},
  }};
  return names[size_t(kind)];
}

// cuDNN's order of dimensions is NCHW, or KCRS, whatever the strides.
Descriptor tensorDescriptor(const Api& api, const Tensor& t, int64_t id, bool isVirtual) {
  const int64_t ld = t.ld;
  Descriptor d(api, DescriptorType::tensor);
  d.set(Attribute::tensorDataType, dataType(t.dtype))
      .set(Attribute::tensorDimensions, std::vector<int64_t>{t.n, t.c, t.h, t.w})
      .set(Attribute::tensorStrides, std::vector<int64_t>{t.h * t.w * ld, 1, t.w * ld, ld})
      .set(Attribute::tensorId, id)
      .set(Attribute::tensorAlignment, int64_t(alignmentOf(t)))
      .set(Attribute::tensorIsVirtual, isVirtual)
      .finalize();
  return d;
}

Tensor dense(Tensor t, DType dtype) {
  t.data = nullptr;
  t.ld = t.c;
  t.dtype = dtype;
  return t;
}

// Padding behind: what the last position of the filter reads beyond the image. Pixels that no position reads need none.
int64_t paddingBehind(int image, int before, int filter, int response, int stride) {
  return std::max<int64_t>(0, int64_t(response - 1) * stride + filter - image - before);
}

Descriptor convolutionDescriptor(const Api& api, const ConvProblem& p) {
  const ConvShape& s = p.shape;
  Descriptor d(api, DescriptorType::convolution);
  d.set(Attribute::convolutionComputeType, DataType::f32)
      .set(Attribute::convolutionMode, ConvolutionMode::crossCorrelation)
      .set(Attribute::convolutionSpatialDims, int64_t(2))
      .set(Attribute::convolutionDilations, std::vector<int64_t>{1, 1})
      .set(Attribute::convolutionStrides, std::vector<int64_t>{s.stride, s.stride})
      .set(Attribute::convolutionPrePaddings, std::vector<int64_t>{s.padTop, s.padLeft})
      .set(Attribute::convolutionPostPaddings,
           std::vector<int64_t>{paddingBehind(p.image.h, s.padTop, p.filter.h, p.response.h, s.stride),
                                paddingBehind(p.image.w, s.padLeft, p.filter.w, p.response.w, s.stride)})
      .finalize();
  return d;
}

class Builder {
 public:
  Builder(const Api& api, const ConvProblem& problem) : api_(api), problem_(problem) {}

  Graph build(Handle handle, Epilogue epilogue) {
    const Id resultId = resultOf(problem_.kind);
    RawDescriptor result = nullptr;
    if (epilogue == Epilogue::separate)
      result = tensor(separateResult(problem_), int64_t(resultId), false);
    else if (epilogue == Epilogue::fused)
      result = sum();
    else
      result = tensor(problem_.result(), int64_t(resultId), false);

    const auto operand = [&](Id id, const Tensor& t) {
      return id == resultId ? result : tensor(t, int64_t(id), false);
    };
    const OperationNames& names = namesOf(problem_.kind);
    const RawDescriptor image = operand(Id::image, problem_.image), filter = operand(Id::filter, problem_.filter),
                        response = operand(Id::response, problem_.response),
                        convolution = keep(convolutionDescriptor(api_, problem_));
    Descriptor operation(api_, names.type);
    operation.set(names.image, image)
        .set(names.filter, filter)
        .set(names.response, response)
        .set(names.convolution, convolution)
        .set(names.alpha, 1.0f)
        .set(names.beta, 0.0f)
        .finalize();
    operations_.push_back(keep(std::move(operation)));
    if (epilogue == Epilogue::fused) addUp(result);

    Descriptor graph(api_, DescriptorType::operationGraph);
    graph.set(Attribute::graphOperations, operations_).set(Attribute::graphHandle, handle).finalize();
    keep(std::move(graph));
    return Graph(std::move(parts_));
  }

 private:
  static Id resultOf(ConvKind kind) {
    return kind == ConvKind::forward ? Id::response : kind == ConvKind::dgrad ? Id::image : Id::filter;
  }

  RawDescriptor keep(Descriptor d) {
    parts_.push_back(std::move(d));
    return parts_.back().raw();
  }
  RawDescriptor tensor(const Tensor& t, int64_t id, bool isVirtual) {
    return keep(tensorDescriptor(api_, t, id, isVirtual));
  }
  // A sum that stays within the graph, in f32.
  RawDescriptor sum() { return tensor(dense(problem_.result(), DType::f32), nextVirtual_++, true); }

  // result + the addends in turn; the last of these sums is the problem's result.
  void addUp(RawDescriptor result) {
    std::vector<std::pair<Id, const Tensor*>> addends;
    if (problem_.bias) addends.push_back({Id::bias, &problem_.bias});
    if (problem_.sampleBias) addends.push_back({Id::sampleBias, &problem_.sampleBias});
    if (problem_.residual) addends.push_back({Id::residual, &problem_.residual});
    Descriptor mode(api_, DescriptorType::pointwise);
    mode.set(Attribute::pointwiseMode, PointwiseMode::add)
        .set(Attribute::pointwiseMathPrecision, DataType::f32)
        .finalize();
    const RawDescriptor add = keep(std::move(mode));
    for (size_t i = 0; i < addends.size(); ++i) {
      const bool last = i + 1 == addends.size();
      const RawDescriptor addend = tensor(*addends[i].second, int64_t(addends[i].first), false);
      const RawDescriptor to = last ? tensor(problem_.result(), int64_t(resultOf(problem_.kind)), false) : sum();
      Descriptor operation(api_, DescriptorType::pointwiseOperation);
      operation.set(Attribute::operationPointwise, add)
          .set(Attribute::operationX, result)
          .set(Attribute::operationB, addend)
          .set(Attribute::operationY, to)
          .finalize();
      operations_.push_back(keep(std::move(operation)));
      result = to;
    }
  }

  const Api& api_;
  const ConvProblem& problem_;
  std::vector<Descriptor> parts_;
  std::vector<RawDescriptor> operations_;
  int64_t nextVirtual_ = int64_t(Id::firstVirtual);
};

}  // namespace

Graph buildGraph(const Api& api, Handle handle, const ConvProblem& problem, Epilogue epilogue) {
  return Builder(api, problem).build(handle, epilogue);
}

Tensor separateResult(const ConvProblem& problem) { return dense(problem.result(), DType::f32); }

Addresses addressesOf(const ConvProblem& p, Epilogue epilogue, void* separate) {
  Addresses a;
  const auto add = [&](Id id, const Tensor& t) {
    const bool moved = epilogue == Epilogue::separate && &t == &p.result();
    a.ids.push_back(int64_t(id));
    a.pointers.push_back(moved ? separate : t.data);
  };
  add(Id::image, p.image);
  add(Id::filter, p.filter);
  add(Id::response, p.response);
  if (epilogue != Epilogue::fused) return a;
  if (p.bias) add(Id::bias, p.bias);
  if (p.sampleBias) add(Id::sampleBias, p.sampleBias);
  if (p.residual) add(Id::residual, p.residual);
  return a;
}

}  // namespace ddpm::cuda::cudnn
