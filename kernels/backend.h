// What a backend offers: devices, memory, and a kernel for every op of ops.h. The same table serves the CPU backend,
// which is linked into the addon, and the others, which are libraries beside it that export `ddpm_backend`. No
// exception crosses it: a function that can fail returns false and leaves the reason in an Error.
#pragma once
#include <atomic>

#include "ops.h"

namespace ddpm {

constexpr int32_t kBackendAbi = 22;

enum class ErrorCode : int32_t {
  none = 0,
  invalidArgument,
  outOfMemory,
  deviceUnavailable,
  unsupported,
  internal,
  rankFailed
};

struct Error {
  ErrorCode code = ErrorCode::none;
  char message[1024] = {0};
};

// The precision of a program (ops.h, legend) is named by its narrow dtype; f32 stands for fp32.
constexpr int32_t precisionBit(DType dtype) { return 1 << int32_t(dtype); }

struct DeviceOptions {
  int32_t index = 0;    // cuda:1 -> 1
  int32_t threads = 0;  // CPU: 0 for DDPM_NUM_THREADS, or all cores
};

struct DeviceInfo {
  char name[256];  // "AMD EPYC ... (avx2)"
  char isa[32];    // CPU: portable, avx2, avx512
  char bf16[32];   // CPU: what computes products of precision bf16 (cpu/bf16); empty: nothing does
  int32_t threads;
  uint64_t memoryBytes;  // total memory of the device
  uint64_t freeBytes;    // of it, what this process could still allocate
};

struct Gathered;  // a backend's own: convolutions whose algorithms it would choose by times

// How algorithms are chosen when a program is compiled.
struct PlanOptions {
  int32_t deterministic = 0;  // the algorithm must not depend on the batch size or the number of threads
  int32_t forceAlgo = -1;     // a ConvAlgo wherever it is possible; tests force each in turn
  // The most that a backend which can do without may keep of packed weights (ConvPlan::packedBytes): of the convolution
  // that plan* is asked for, and of a whole program where a compiler is. Negative: the compiler's default.
  int64_t packedBytes = -1;
  // What operands may be rounded to (Backend::roundsOperands), where that is faster.
  DType products = DType::f32;
  Gathered* gathered = nullptr;  // where plan* put what is not timed yet; null: they put it nowhere
};

// A kernel of a GPU as it is launched.
struct Launch {
  char kernel[256];
  int32_t grid[3], block[3];
  uint64_t sharedBytes;  // dynamic shared memory of a block
};

struct DeviceHandle;  // the backend's own
struct Recording;     // the same

// A part of a buffer, in bytes.
struct Part {
  size_t offset, bytes;
};

// What moves numbers between the devices of processes that were started together, ranks 0 ... size - 1 (NCCL). All
// issue the same in the same order. Like kernels it is done in the order of the stream, and can be recorded. Where a
// rank does not come in time, or one is lost, what waits for the device gives rankFailed, and so does what is issued
// here afterwards.
struct Links {
  static constexpr size_t kIdBytes = 128;
  // By which the ranks of one group find one another: made by one of them, for all.
  bool (*makeId)(DeviceHandle*, char* id, Error*);
  // Once a device.
  bool (*join)(DeviceHandle*, const char* id, int32_t rank, int32_t size, Error*);
  // Which library, as text.
  void (*library)(DeviceHandle*, char* text, size_t bytes);
  // sent[r] of `from` goes to rank r, and what comes from it to received[r] of `to`.
  bool (*exchange)(DeviceHandle*, const void* from, const Part* sent, void* to, const Part* received, Error*);
  // parts[r] of `data` of rank r goes to the same place of all.
  bool (*gather)(DeviceHandle*, void* data, const Part* parts, Error*);
  // What is issued between these two, on one thread, goes beside what the stream has afterwards, in an order of its
  // own: when what the stream has so far is done, and what went aside before.
  bool (*beginAside)(DeviceHandle*, Error*);
  bool (*endAside)(DeviceHandle*, Error*);
  // What the stream has afterwards comes when all that went aside is done. A recording ends so.
  bool (*awaitAside)(DeviceHandle*, Error*);
  // False where the others are lost: a recording with any of this may not be replayed then.
  bool (*check)(DeviceHandle*, Error*);
  // How long the others are waited for, in seconds; at first 600. Any thread.
  void (*setTimeout)(DeviceHandle*, double seconds);
  // Ends all waiting for them. Any thread.
  void (*abandon)(DeviceHandle*);
  // When what was issued is done. Without it, closing the device breaks the group.
  bool (*leave)(DeviceHandle*, Error*);
};

// `run` computes one op; `scratch` says how much scratch memory it wants (null: none). All pointers of the op are
// device pointers, except that `scratch` looks at shapes only.
template <class Op>
struct Kernel {
  bool (*run)(DeviceHandle*, const Op&, void* scratch, Error*) = nullptr;
  bool (*scratch)(DeviceHandle*, const Op&, size_t* bytes, Error*) = nullptr;
};

// A device is used by one thread, except that info, libraries, allocate, plan*, list and the kernels' scratch may be
// called by another thread at any time, also while a kernel runs.
struct Backend {
  int32_t abi;
  const char* name;
  int32_t precisions;                     // of programs, a precisionBit() each
  const char* (*lacks)(DType precision);  // what a precision that is none of them would need; null: nobody can say
  int32_t roundsOperands;                 // whether tensors stay f32 in those of mixed precision (ops.h, Precision)
  int32_t weightFormats;                  // of weights (ops.h, Weights), a precisionBit() each
  int32_t choosesPacking;   // whether it can do without packed weights: ConvPlan::saved says what they are worth
  int32_t upsamplesInConv;  // whether Conv2d and Conv2dWgrad take ConvShape::upsample

  // Devices that can be opened; 0 with the reason in `why` (what is missing, what was tried).
  int32_t (*deviceCount)(Error* why);
  DeviceHandle* (*open)(const DeviceOptions&, Error*);
  void (*close)(DeviceHandle*);
  void (*info)(DeviceHandle*, DeviceInfo*);
  // Which libraries of others it uses, or why none, as text for reports of at most `bytes` bytes. Opens them. Null
  // where the backend knows none.
  void (*libraries)(DeviceHandle*, char* text, size_t bytes);

  // Memory, aligned to at least 64 bytes. Copies and kernels run in the order they are issued; copyOut and synchronize
  // wait, and copyIn returns when the host's memory has been read.
  void* (*allocate)(DeviceHandle*, size_t bytes, Error*);
  void (*release)(DeviceHandle*, void*);
  bool (*copyIn)(DeviceHandle*, void* device, const void* host, size_t bytes, Error*);
  bool (*copyOut)(DeviceHandle*, void* host, const void* device, size_t bytes, Error*);
  bool (*copy)(DeviceHandle*, void* to, const void* from, size_t bytes, Error*);
  bool (*synchronize)(DeviceHandle*, Error*);

  // Recordings (CUDA graphs). Kernels and copies on the device that are issued between begin and end are kept instead
  // of executed, with their addresses; nothing else may be called meanwhile. endRecording returns null when what was
  // issued cannot be recorded; either way the recording is over. replay issues all of it as one piece of work. Closing
  // the device releases them all. Null where the backend does not record.
  bool (*beginRecording)(DeviceHandle*, Error*);
  Recording* (*endRecording)(DeviceHandle*, Error*);
  bool (*replay)(DeviceHandle*, Recording*, Error*);
  void (*releaseRecording)(DeviceHandle*, Recording*);

  // Algorithm and packed size of a convolution; shapes only, data pointers may be null.
  bool (*planConv)(DeviceHandle*, const Conv2d&, const PlanOptions&, ConvPlan*, Error*);
  bool (*planDgrad)(DeviceHandle*, const Conv2dDgrad&, const PlanOptions&, ConvPlan*, Error*);
  bool (*planWgrad)(DeviceHandle*, const Conv2dWgrad&, const PlanOptions&, ConvAlgo*, Error*);

  // What kernels' `run` would launch, for models of time: calls issue(argument) and, for each launch that this asks for
  // on the calling thread, add(argument, launch) in place of executing it. Pointers of ops count by their alignment
  // only. Null where the backend cannot tell.
  bool (*list)(DeviceHandle*, void (*issue)(void*), void (*add)(void*, const Launch&), void* argument, Error*);

  // The choice by times. What plan* gathered for a program is timed by `choose` until `stop` is true (any thread; it
  // may take seconds), after which plan* knows the answers; it ends with the object. Null where the backend times
  // nothing.
  Gathered* (*gather)(DeviceHandle*);
  void (*choose)(DeviceHandle*, Gathered*, const std::atomic<bool>& stop);

  const Links* links;  // null where the backend has none

#define DDPM_KERNEL(Op) Kernel<Op> k##Op;
  DDPM_OPS(DDPM_KERNEL)
#undef DDPM_KERNEL
};

}  // namespace ddpm

// A sidecar library exports this; it returns null when it cannot serve that ABI.
extern "C" {
typedef const ddpm::Backend* (*DdpmBackendFn)(int32_t abi);
}
