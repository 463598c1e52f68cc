// A stand-in for cuDNN 9's graph library, for tests: the functions of its backend API that this project uses, strict
// about how they are used, computing on the CPU. It is written from cuDNN's documentation, with its names and values,
// and includes none of the declarations that it is to test:
// https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html
//
// DDPM_FAKE_CUDNN is a list of what is to go wrong: version=<number>, create-fails, no-fusion, no-engines,
// big-workspace, execute-fails, slow=<file>: plans are built as long as that file exists. To the file
// DDPM_FAKE_CUDNN_LOG goes a line for each execution (with `moments` two more, of its operands), for each build that
// waits, and for each misuse.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "test/fake-cudnn/descriptor.h"

namespace fake {
namespace {

// Makes the descriptors of `into` those of the engines.
Status give(int kind, Descriptor* graph, const std::vector<Engine>& engines, int64_t asked, int64_t* count,
            void* into) {
  if (count) *count = int64_t(engines.size());
  for (int64_t i = 0; i < std::min<int64_t>(asked, int64_t(engines.size())); ++i) {
    Descriptor* d = static_cast<Descriptor**>(into)[i];
    if (!living.count(d) || d->kind != kind) return misuse(badParam, "results go into descriptors of their kind");
    d->finalized = true;
    d->origin = graph;
    d->engines = {engines[size_t(i)]};
  }
  if (count && asked > 0) *count = std::min<int64_t>(asked, int64_t(engines.size()));
  return ok;
}

template <class T>
Status giveValues(const std::vector<T>& values, int64_t asked, int64_t* count, void* into) {
  if (count) *count = int64_t(values.size());
  const auto given = std::min<int64_t>(asked, int64_t(values.size()));
  if (given > 0) std::memcpy(into, values.data(), sizeof(T) * size_t(given));
  return ok;
}

#ifndef FAKE_CUDNN_LACKS_EXECUTE
// Mean and variance of a dense f32 operand.
void logMoments(const std::string& name, const TensorInfo& t, const std::map<int64_t, void*>& byId) {
  const auto* values = static_cast<const float*>(byId.at(t.id));
  const int64_t count = t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3];
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += double(values[i]);
    squares += double(values[i]) * double(values[i]);
  }
  const double mean = sum / double(count);
  log("moments of " + name + ": " + std::to_string(mean) + " " + std::to_string(squares / double(count) - mean * mean));
}

Status execute(const Descriptor& p, const Descriptor& pack) {
  const auto ids = pack.all<int64_t>(1000);
  const auto pointers = pack.all<void*>(1001);
  std::map<int64_t, void*> byId;
  for (size_t i = 0; i < ids.size(); ++i) byId[ids[i]] = pointers[i];
  if (!isLiving(p.origin, operationGraph)) return misuse(badParam, "the graph of a plan is gone");
  for (Descriptor* part : p.origin->all<Descriptor*>(801)) {
    Operation o;
    if (!operationOf(part, o)) return misuse(badParam, "what a plan's graph refers to is gone");
    for (const TensorInfo* t : {&o.x, &o.w, &o.y}) {
      if (t->isVirtual) continue;
      const auto found = byId.find(t->id);
      if (found == byId.end() || !found->second)
        return misuse(nullPointer, "no pointer for tensor " + std::to_string(t->id));
      if (reinterpret_cast<uintptr_t>(found->second) % uint64_t(t->alignment))
        return misuse(badParam, "tensor " + std::to_string(t->id) + " is not aligned as it was said to be");
    }
  }
  const Engine& e = p.engines[0];
  auto* workspace = pack.one<unsigned char*>(1003);
  if (e.workspace && !workspace) return misuse(nullPointer, "no workspace");
  if (option("execute-fails")) return refuse(executionFailed, "asked to");
  if (e.workspace) std::memset(workspace, 0x5A, size_t(e.workspace));
  if (option("moments")) {
    const Operation& first = p.origin->operations[0];
    logMoments("image", first.x, byId);
    logMoments("filter", first.w, byId);
  }
  compute(p.origin->operations, byId, e.wrong);
  static const char* const kinds[] = {"forward", "dgrad", "wgrad", "add"};
  log("execute " + std::string(kinds[int(p.origin->operations[0].kind)]) + ", engine " + std::to_string(e.index) +
      ", operations " + std::to_string(p.origin->operations.size()));
  return ok;
}
#endif

// Without the lock, so that others can run meanwhile.
void waitForSlowBuild(const Descriptor* d) {
  std::string file;
  {
    const std::lock_guard guard(lock);
    const char* slow = option("slow");
    if (!slow || !living.count(d) || d->kind != plan) return;
    file = slow;
    if (access(file.c_str(), F_OK) == 0) log("a build waits");
  }
  while (access(file.c_str(), F_OK) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace
}  // namespace fake

using fake::Descriptor;
using fake::Handle;

#define FAKE_API extern "C" __attribute__((visibility("default")))

FAKE_API size_t cudnnGetVersion() {
  const char* version = fake::option("version");
  return version ? size_t(std::atol(version)) : 90501;
}

FAKE_API const char* cudnnGetErrorString(int status) {
  switch (status / 1000) {
    case 0:
      return "CUDNN_STATUS_SUCCESS";
    case 2:
      return "CUDNN_STATUS_BAD_PARAM";
    case 3:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    case 4:
      return "CUDNN_STATUS_INTERNAL_ERROR";
    default:
      return "CUDNN_STATUS_EXECUTION_FAILED";
  }
}

FAKE_API void cudnnGetLastErrorString(char* message, size_t bytes) {
  std::snprintf(message, bytes, "%s", fake::lastError.c_str());
}

FAKE_API int cudnnCreate(Handle** handle) {
  const std::lock_guard guard(fake::lock);
  if (fake::option("create-fails")) return fake::refuse(fake::allocationFailed, "asked to");
  *handle = new Handle;
  fake::handles.insert(*handle);
  return fake::ok;
}

FAKE_API int cudnnSetStream(Handle* handle, void*) {
  const std::lock_guard guard(fake::lock);
  if (!fake::handles.count(handle)) return fake::misuse(fake::badParam, "no handle");
  handle->hasStream = true;
  return fake::ok;
}

FAKE_API int cudnnBackendCreateDescriptor(int kind, Descriptor** descriptor) {
  const std::lock_guard guard(fake::lock);
  for (const int known : {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 15, 16, 17})
    if (kind == known) {
      *descriptor = new Descriptor{kind, false, {}, {}, {}, nullptr};
      fake::living.insert(*descriptor);
      return fake::ok;
    }
  return fake::misuse(fake::badParam, "descriptor type " + std::to_string(kind));
}

FAKE_API int cudnnBackendDestroyDescriptor(Descriptor* d) {
  const std::lock_guard guard(fake::lock);
  if (!fake::living.erase(d)) return fake::misuse(fake::badParam, "what is destroyed is no descriptor");
  delete d;
  return fake::ok;
}

FAKE_API int cudnnBackendSetAttribute(Descriptor* d, int attribute, int type, int64_t count, const void* elements) {
  const std::lock_guard guard(fake::lock);
  if (!fake::living.count(d)) return fake::misuse(fake::badParam, "no descriptor");
  const std::string name = fake::named(d->kind, attribute);
  if (d->finalized) return fake::misuse(fake::badParam, name + " is set after finalizing");
  const fake::Rule* rule = fake::ruleOf(d->kind, attribute);
  if (!rule) return fake::misuse(fake::badParam, name + " does not exist");
  if (rule->type != type) return fake::misuse(fake::attributeType, name + " has another type");
  if (count < rule->least || count > rule->most || !elements)
    return fake::misuse(fake::badParam, name + " cannot have " + std::to_string(count) + " elements");
  const auto* bytes = static_cast<const unsigned char*>(elements);
  d->values[attribute] = {count, {bytes, bytes + size_t(count) * fake::sizeOf(type)}};
  return fake::ok;
}

FAKE_API int cudnnBackendGetAttribute(Descriptor* d, int attribute, int type, int64_t asked, int64_t* count,
                                      void* elements) {
  const std::lock_guard guard(fake::lock);
  if (!fake::living.count(d)) return fake::misuse(fake::badParam, "no descriptor");
  const std::string name = fake::named(d->kind, attribute);
  if (!d->finalized) return fake::misuse(fake::notFinalized, name + " is read before finalizing");
  const auto is = [&](int kind, int a, int t) { return d->kind == kind && attribute == a && type == t; };
  if (is(fake::engineHeur, fake::heuristicsResults, fake::descriptorType))
    return fake::give(fake::engineConfig, d->origin, d->engines, asked, count, elements);
  if (is(fake::engineConfig, fake::configEngine, fake::descriptorType))
    return fake::give(fake::engine, d->origin, d->engines, asked, count, elements);
  if (is(fake::engine, fake::engineIndex, fake::int64))
    return fake::giveValues<int64_t>({d->engines[0].index}, asked, count, elements);
  if (is(fake::engine, fake::engineNotes, fake::numericalNote))
    return fake::giveValues<int32_t>(d->engines[0].notes, asked, count, elements);
  if (is(fake::plan, fake::planWorkspace, fake::int64))
    return fake::giveValues<int64_t>({d->engines[0].workspace}, asked, count, elements);
  return fake::misuse(fake::attributeType, name + " cannot be read as type " + std::to_string(type));
}

FAKE_API int cudnnBackendFinalize(Descriptor* d) {
  fake::waitForSlowBuild(d);
  const std::lock_guard guard(fake::lock);
  if (!fake::living.count(d)) return fake::misuse(fake::badParam, "no descriptor");
  if (d->finalized) return fake::misuse(fake::badParam, "a descriptor is finalized twice");
  const fake::Status status = fake::finalize(*d);
  d->finalized = status == fake::ok;
  return status;
}

#ifndef FAKE_CUDNN_LACKS_EXECUTE
FAKE_API int cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
  const std::lock_guard guard(fake::lock);
  if (!fake::handles.count(handle) || !handle->hasStream)
    return fake::misuse(fake::badParam, "execution without a handle or its stream");
  if (!fake::isLiving(plan, fake::plan) || !fake::isLiving(pack, fake::variantPack))
    return fake::misuse(fake::notFinalized, "what is executed is not finalized");
  return fake::execute(*plan, *pack);
}
#endif
