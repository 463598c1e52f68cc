// The part of cuDNN 9's backend ("graph") API that convolutions need, in declarations of our own: the library is opened
// at run time, and its headers are not needed to build. Names are cuDNN's without their prefixes; the name in the
// headers stands behind each group. The values are those of cuDNN 9.0 to 9.22:
// https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html
#pragma once
#include <cstddef>
#include <cstdint>

struct CUstream_st;
struct cudnnContext;

namespace ddpm::cuda::cudnn {

using Handle = cudnnContext*;  // cudnnHandle_t
using RawDescriptor = void*;   // cudnnBackendDescriptor_t
using Status = int32_t;        // cudnnStatus_t
constexpr Status kSuccess =
    0;  // else thousands: 1 initialization, 2 bad parameter, 3 not supported, 4 internal, 5 execution
inline bool isNotSupported(Status s) { return s / 1000 == 3; }

enum class DataType : int32_t { f32 = 0, f16 = 2, bf16 = 9 };   // cudnnDataType_t: FLOAT, HALF, BFLOAT16
enum class ConvolutionMode : int32_t { crossCorrelation = 1 };  // cudnnConvolutionMode_t
enum class PointwiseMode : int32_t { add = 0 };                 // cudnnPointwiseMode_t
enum class HeuristicMode : int32_t { fallback = 2, a = 3 };     // cudnnBackendHeurMode_t
enum class NumericalNote : int32_t {                            // cudnnBackendNumericalNote_t
  tensorCore = 0,
  downConvertInputs = 1,
  reducedPrecisionReduction = 2,
  fft = 3,
  nondeterministic = 4,
  winograd = 5,
  winogradTile4x4 = 6,
  winogradTile6x6 = 7,
  winogradTile13x13 = 8,
};

enum class DescriptorType : int32_t {  // CUDNN_BACKEND_..._DESCRIPTOR
  pointwise = 0,
  convolution = 1,
  engine = 2,
  engineConfig = 3,
  engineHeuristics = 4,
  executionPlan = 5,
  convolutionForward = 10,
  convolutionBackwardFilter = 11,
  convolutionBackwardData = 12,
  pointwiseOperation = 13,
  operationGraph = 15,
  variantPack = 16,
  tensor = 17,
};

enum class AttributeType : int32_t {  // CUDNN_TYPE_...
  handle = 0,
  dataType = 1,
  boolean = 2,
  int64 = 3,
  f32 = 4,
  pointer = 6,
  convolutionMode = 7,
  heuristicMode = 8,
  numericalNote = 11,
  pointwiseMode = 14,
  descriptor = 15,
};

enum class Attribute : int32_t {  // CUDNN_ATTR_...
  pointwiseMode = 0,
  pointwiseMathPrecision = 1,

  convolutionComputeType = 100,
  convolutionMode = 101,
  convolutionDilations = 102,
  convolutionStrides = 103,
  convolutionPostPaddings = 104,
  convolutionPrePaddings = 105,
  convolutionSpatialDims = 106,

  heuristicsMode = 200,
  heuristicsGraph = 201,
  heuristicsResults = 202,

  configEngine = 300,

  planConfig = 401,
  planWorkspaceSize = 402,

  forwardAlpha = 700,
  forwardBeta = 701,
  forwardConvolution = 702,
  forwardW = 703,
  forwardX = 704,
  forwardY = 705,
  backwardDataAlpha = 706,
  backwardDataBeta = 707,
  backwardDataConvolution = 708,
  backwardDataW = 709,
  backwardDataDx = 710,
  backwardDataDy = 711,
  backwardFilterAlpha = 712,
  backwardFilterBeta = 713,
  backwardFilterConvolution = 714,
  backwardFilterDw = 715,
  backwardFilterX = 716,
  backwardFilterDy = 717,

  operationPointwise = 750,
  operationX = 751,
  operationB = 752,
  operationY = 753,

  graphHandle = 800,
  graphOperations = 801,

  tensorAlignment = 900,
  tensorDataType = 901,
  tensorDimensions = 902,
  tensorStrides = 903,
  tensorId = 906,
  tensorIsVirtual = 907,

  packIds = 1000,
  packPointers = 1001,
  packWorkspace = 1003,

  engineIndex = 1301,
  engineNumericalNotes = 1303,
};

// The library's functions: cudnnGetVersion, ..., cudnnBackendExecute.
struct Api {
  size_t (*getVersion)();  // 90501 is 9.5.1
  const char* (*getErrorString)(Status);
  void (*getLastErrorString)(char* message, size_t bytes);
  Status (*create)(Handle*);
  Status (*setStream)(Handle, CUstream_st*);
  Status (*createDescriptor)(DescriptorType, RawDescriptor*);
  Status (*destroyDescriptor)(RawDescriptor);
  Status (*setAttribute)(RawDescriptor, Attribute, AttributeType, int64_t count, const void* elements);
  Status (*getAttribute)(RawDescriptor, Attribute, AttributeType, int64_t asked, int64_t* count, void* elements);
  Status (*finalize)(RawDescriptor);
  Status (*execute)(Handle, RawDescriptor plan, RawDescriptor variantPack);
};

}  // namespace ddpm::cuda::cudnn
