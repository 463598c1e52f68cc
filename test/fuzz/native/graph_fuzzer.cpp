// libFuzzer: graphs from bytes are refused with a Failure, or compiled for every backend that is beside the program,
// and small ones are run on one. Whatever else happens is a finding: a crash, what the sanitizers report, an 'internal'
// failure.
#include <cstdio>
#include <cstring>
#include <future>

#include "native/graph/precision.h"
#include "native/runtime/backends.h"
#include "native/runtime/program.h"
#include "test/fuzz/native/graph_builder.h"

namespace ddpm::fuzz {
namespace {

// Of a program that is run: all its memory, so that it ends within a moment.
constexpr uint64_t kMaxBytes = 1 << 18;

const std::vector<std::shared_ptr<Device>>& devices() {
  static const std::vector<std::shared_ptr<Device>> opened = [] {
    std::vector<std::shared_ptr<Device>> all;
    for (const std::string& name : backendNames()) {
      all.push_back(Device::open(name, 0, 2));  // one that is there and can't be opened is no reason to go on without
      std::fprintf(stderr, "backend %s (%s)\n", name.c_str(), all.back()->info().isa);
    }
    return all;
  }();
  return opened;
}

std::shared_ptr<Buffer> filled(const std::shared_ptr<Device>& device, const Storage& storage, Bytes& bytes) {
  static const float kNumbers[] = {0, 1, -1, 0.5f, 3, 1e30f, -1e-30f, __builtin_nanf(""), __builtin_inff()};
  static const int32_t kIntegers[] = {0, 1, 2, 4, -1, 1000, INT32_MAX, INT32_MIN};
  const int64_t count = std::max<int64_t>(1, int64_t((storage.bytes + 3) / 4));
  const auto buffer = Buffer::allocate(device, count);
  std::vector<char> content(size_t(count) * 4);
  for (int64_t i = 0; i < count; ++i) {
    const bool number = i % 16 ? bytes.below(4) : true;
    const float x = bytes.one(kNumbers);
    const int32_t n = bytes.one(kIntegers);
    std::memcpy(&content[size_t(i) * 4], number ? static_cast<const void*>(&x) : &n, 4);
  }
  buffer->copyIn(content.data(), 0, count);
  return buffer;
}

void run(const std::shared_ptr<Device>& device, const std::shared_ptr<Program>& program, Bytes& bytes) {
  std::promise<void> done;
  Outcome failure;
  device->submit(
      [&] {
        Program::Bindings bindings;
        for (const Storage& s : program->compiled().storages)
          if (s.kind == Storage::external) bindings[s.name] = filled(device, s, bytes);
        program->checkBindings(bindings);
        program->run(bindings);
        program->run(bindings);  // recorded, where the backend records
      },
      [&](Outcome outcome) {
        failure = std::move(outcome);
        done.set_value();
      });
  done.get_future().wait();
  if (failure && failure->code == "internal") throw *failure;
}

bool isSmall(const Graph& graph, const Compiled& compiled) {
  int64_t values = 0;
  for (const Value& v : graph.values()) values += elements(v.dims);
  uint64_t bytes = uint64_t(values) * 4;
  for (const Storage& s : compiled.storages) bytes += s.bytes;
  return bytes <= kMaxBytes && compiled.scratchBytes <= 64 * kMaxBytes;  // a backend's fixed part is in there
}

void compileAndRun(const GraphBuilder& builder, const std::map<std::string, ValueId>& outputs, Bytes bytes) {
  const Graph& graph = builder.graph();
  const DType precision = kPrecisions[bytes.below(std::size(kPrecisions))];
  PlanOptions options;
  options.deterministic = bytes.below(2);
  options.forceAlgo = bytes.below(8) ? -1 : bytes.below(12);
  // One of them runs it: cuda-host takes longer than all the rest.
  const auto& chosen = devices()[size_t(bytes.below(int(devices().size())))];
  for (const auto& device : devices()) {
    try {
      const Target target = {&device->backend(), device->handle(), options, precision};
      Compiled compiled = compile(graph, outputs, target);
      describe(compiled);
      if (device == chosen && isSmall(graph, compiled)) {
        const auto program = std::make_shared<Program>(device, std::move(compiled));
        program->reserve();
        run(device, program, bytes);
      }
    } catch (const Failure& failure) {
      if (failure.code == "internal") throw;
    }
  }
}

}  // namespace
}  // namespace ddpm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ddpm::fuzz;
  Bytes bytes(data, size);
  GraphBuilder builder(bytes);
  try {
    for (int nodes = 1 + bytes.below(24); nodes > 0 && !bytes.empty(); --nodes) {
      builder.addNode();
      if (bytes.byte() < 16) builder.differentiate();
    }
    std::map<std::string, ddpm::ValueId> outputs;
    for (int n = 1 + bytes.below(3); n > 0; --n) outputs["y" + std::to_string(n)] = builder.anyValue();
    compileAndRun(builder, outputs, bytes);
  } catch (const ddpm::Failure& failure) {
    std::fprintf(stderr, "internal: %s\n", failure.what());
    std::abort();
  }
  return 0;
}
