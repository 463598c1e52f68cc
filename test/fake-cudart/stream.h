// Streams, and what is captured from them. Nothing is done when it is issued: a stream's work waits until somebody
// waits for it, so that a program that doesn't, or that changes what is to be read, shows.
#pragma once
#include <driver_types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace fake {

struct Operand {
  const void* address;
  size_t bytes;
};

// A kernel, or a copy.
struct Work {
  std::string name;
  std::vector<Operand> operands;  // in device memory
  std::function<void()> run;      // kernels compute nothing
  bool isKernel;
};

struct Capture {
  std::thread::id thread;
  cudaStreamCaptureMode mode;
  std::vector<Work> work;
  bool valid = true;
};

struct Stream {
  int device;
  uint64_t issued = 0, done = 0;  // operations
  std::deque<std::pair<uint64_t, std::function<void()>>> queue;
  Capture* capture = nullptr;
};

struct Graph {
  int device;
  std::vector<Work> work;
};

Stream* createStream(int device);
void destroyStream(Stream* stream);
bool isStream(const Stream* stream);

// Puts work on the stream, or into the capture that it is part of.
cudaError_t issue(Stream& stream, const Work& work);
cudaError_t launch(const Graph& graph, Stream& stream);
// Does everything up to this operation.
void wait(Stream& stream, uint64_t number);
void waitForDevice(int device);

cudaError_t beginCapture(Stream& stream, cudaStreamCaptureMode mode);
// Null with the reason where it was invalidated.
Graph* endCapture(Stream& stream, cudaError_t* status);
// Of a call that may not be made while something is captured, by this thread or, in the mode of a capture that says so,
// by any: invalidates the captures that it disturbs.
cudaError_t unsafeCall();
// Of waiting for this stream.
cudaError_t waitCall(Stream& stream);

}  // namespace fake
