#include "test/fake-cudart/stream.h"

#include <algorithm>
#include <set>

#include "test/fake-cudart/faults.h"
#include "test/fake-cudart/memory.h"
#include "test/fake-cudart/report.h"

namespace fake {
namespace {

std::set<const Stream*> streams;

void enqueue(Stream& stream, const Work& work) {
  for (const Operand& operand : work.operands) use(operand.address, operand.bytes, stream, work.name);
  stream.queue.emplace_back(++stream.issued, work.run);
  if (work.isKernel) countKernel(work.name, 1);
}

void invalidate(Capture& capture) {
  capture.valid = false;
  count("invalidated capture");
}

}  // namespace

Stream* createStream(int device) {
  auto* stream = new Stream{device, 0, 0, {}, nullptr};
  streams.insert(stream);
  return stream;
}

void destroyStream(Stream* stream) {
  if (stream->capture) violation("a stream that is captured is destroyed");
  wait(*stream, stream->issued);
  streams.erase(stream);
  delete stream;
}

bool isStream(const Stream* stream) { return streams.count(stream) > 0; }

cudaError_t issue(Stream& stream, const Work& work) {
  if (!stream.capture) {
    enqueue(stream, work);
    return cudaSuccess;
  }
  if (!stream.capture->valid) return cudaErrorStreamCaptureInvalidated;
  stream.capture->work.push_back(work);
  stream.captured = stream.capture->work.size();
  return cudaSuccess;
}

void record(Event& event, Stream& stream) {
  event = {event.device, &stream, stream.capture ? stream.captured : stream.issued, stream.capture};
}

cudaError_t waitFor(Stream& stream, const Event& event) {
  if (!event.stream) return cudaSuccess;
  if (!event.capture) {
    if (stream.capture) return invalidate(*stream.capture), cudaErrorStreamCaptureIsolation;
    stream.queue.emplace_back(++stream.issued, [event] { wait(*event.stream, event.number); });
    return cudaSuccess;
  }
  if (event.capture != event.stream->capture) violation("an event of a capture that is over is waited for");
  Capture& capture = *event.stream->capture;
  if (stream.capture && stream.capture != &capture) return invalidate(capture), cudaErrorStreamCaptureMerge;
  if (!stream.capture) {
    if (!stream.queue.empty() && stream.device != event.device) violation("a branch on another device");
    stream.capture = &capture;
    stream.captured = 0;
    capture.branches[&stream] = 0;
  }
  if (&stream == capture.origin && event.stream != capture.origin) {
    size_t& joined = capture.branches.at(event.stream);
    joined = std::max<size_t>(joined, event.number);
  }
  return cudaSuccess;
}

cudaError_t launch(const Graph& graph, Stream& stream) {
  if (stream.capture) violation("a graph is launched into a capture");
  if (graph.device != stream.device) return cudaErrorInvalidResourceHandle;
  for (const Work& work : graph.work) enqueue(stream, work);
  return cudaSuccess;
}

void wait(Stream& stream, uint64_t number) {
  while (!stream.queue.empty() && stream.queue.front().first <= number) {
    const auto run = std::move(stream.queue.front().second);
    stream.queue.pop_front();
    if (run) run();
  }
  if (stream.done < number) stream.done = number;
}

void waitForDevice(int device) {
  for (const Stream* stream : streams)
    if (stream->device == device) wait(const_cast<Stream&>(*stream), stream->issued);
}

cudaError_t beginCapture(Stream& stream, cudaStreamCaptureMode mode) {
  if (stream.capture) return cudaErrorIllegalState;
  stream.capture = new Capture{std::this_thread::get_id(), mode, &stream, {}, true, {}};
  stream.captured = 0;
  return cudaSuccess;
}

Graph* endCapture(Stream& stream, cudaError_t* status) {
  Capture* capture = stream.capture;
  if (!capture) return *status = cudaErrorIllegalState, nullptr;
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return *status = cudaErrorStreamCaptureWrongThread, nullptr;
  if (capture->origin != &stream) return *status = cudaErrorStreamCaptureUnmatched, nullptr;
  bool joined = true;
  for (const auto& [branch, number] : capture->branches) {
    joined = joined && branch->captured <= number;
    branch->capture = nullptr;
  }
  stream.capture = nullptr;
  const bool whole = capture->valid && joined;
  Graph* graph = whole ? new Graph{stream.device, std::move(capture->work)} : nullptr;
  *status = whole ? cudaSuccess : joined ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined;
  if (capture->valid && !capture->branches.empty()) count("branches of a capture", capture->branches.size());
  delete capture;
  if (graph) count("capture");
  return graph;
}

cudaError_t unsafeCall() {
  cudaError_t status = cudaSuccess;
  for (const Stream* stream : streams) {
    Capture* capture = stream->capture;
    if (!capture || capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (capture->mode == cudaStreamCaptureModeThreadLocal && capture->thread != std::this_thread::get_id()) continue;
    invalidate(*capture);
    status = cudaErrorStreamCaptureUnsupported;
  }
  return status;
}

cudaError_t waitCall(Stream& stream) {
  if (!stream.capture) return cudaSuccess;
  invalidate(*stream.capture);
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace fake
