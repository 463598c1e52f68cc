// Streams, and what is captured from them. Nothing is done when it is issued: a stream's work waits until somebody
// waits for it, so that a program that doesn't, or that changes what is to be read, shows.
#pragma once
#include <driver_types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
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

struct Stream;

struct Capture {
  std::thread::id thread;
  cudaStreamCaptureMode mode;
  const Stream* origin;
  std::vector<Work> work;  // of all streams that are part of it, in the order in which it was issued
  bool valid = true;
  // Streams that an event made part of it, and up to where of `work` the origin waits for each of them.
  std::map<Stream*, size_t> branches;
};

struct Stream {
  int device;
  uint64_t issued = 0, done = 0;  // operations
  std::deque<std::pair<uint64_t, std::function<void()>>> queue;
  Capture* capture = nullptr;
  size_t captured = 0;  // of the capture's work, up to where there is some of this stream
};

// A point in the order of a stream, or of what is captured from it.
struct Event {
  int device;
  Stream* stream = nullptr;
  uint64_t number = 0;
  const Capture* capture = nullptr;
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
void record(Event& event, Stream& stream);
// What the stream is given afterwards comes after that of the event: in a capture, which the stream is then part of.
cudaError_t waitFor(Stream& stream, const Event& event);
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
