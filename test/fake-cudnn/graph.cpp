// A stand-in for cuDNN 9's graph library, for tests: the functions of its backend API that this project uses, strict
// about how they are used, computing on the CPU. It is written from cuDNN's documentation, with its names and values,
// and includes none of the declarations that it is to test:
// https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html
//
// DDPM_FAKE_CUDNN is a list of what is to go wrong: version=<number>, create-fails, no-fusion, no-engines,
// big-workspace, execute-fails. To the file DDPM_FAKE_CUDNN_LOG goes a line for each execution, and one for each
// misuse.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "test/fake-cudnn/compute.h"

namespace fake {
namespace {

enum Status {
  ok = 0,
  badParam = 2000,
  nullPointer = 2002,
  notFinalized = 2004,
  attributeType = 2010,
  notSupported = 3000,
  graphPattern = 3001,
  allocationFailed = 4004,
  executionFailed = 5000
};

enum Type {
  handleType = 0,
  dataType = 1,
  boolean = 2,
  int64 = 3,
  floating = 4,
  voidPointer = 6,
  convolutionMode = 7,
  heurMode = 8,
  numericalNote = 11,
  pointwiseMode = 14,
  descriptorType = 15
};

size_t sizeOf(int type) {
  switch (type) {
    case handleType:
    case int64:
    case voidPointer:
    case descriptorType:
      return 8;
    case boolean:
      return 1;
    default:
      return 4;
  }
}

enum DescriptorKind {
  pointwise = 0,
  convolution = 1,
  engine = 2,
  engineConfig = 3,
  engineHeur = 4,
  plan = 5,
  forward = 10,
  backwardFilter = 11,
  backwardData = 12,
  pointwiseOperation = 13,
  operationGraph = 15,
  variantPack = 16,
  tensor = 17
};

enum Attribute {
  heuristicsResults = 202,
  configEngine = 300,
  planWorkspace = 402,
  engineIndex = 1301,
  engineNotes = 1303
};

// What may be set on a descriptor before it is finalized; all but the last of a tensor must be.
struct Rule {
  int kind, attribute, type;
  int64_t least, most;
  bool required = true;
};
const Rule kRules[] = {
    {pointwise, 0, pointwiseMode, 1, 1},
    {pointwise, 1, dataType, 1, 1},
    {convolution, 100, dataType, 1, 1},
    {convolution, 101, convolutionMode, 1, 1},
    {convolution, 102, int64, 2, 2},
    {convolution, 103, int64, 2, 2},
    {convolution, 104, int64, 2, 2},
    {convolution, 105, int64, 2, 2},
    {convolution, 106, int64, 1, 1},
    {engineHeur, 200, heurMode, 1, 1},
    {engineHeur, 201, descriptorType, 1, 1},
    {plan, 401, descriptorType, 1, 1},
    {forward, 700, floating, 1, 1},
    {forward, 701, floating, 1, 1},
    {forward, 702, descriptorType, 1, 1},
    {forward, 703, descriptorType, 1, 1},
    {forward, 704, descriptorType, 1, 1},
    {forward, 705, descriptorType, 1, 1},
    {backwardData, 706, floating, 1, 1},
    {backwardData, 707, floating, 1, 1},
    {backwardData, 708, descriptorType, 1, 1},
    {backwardData, 709, descriptorType, 1, 1},
    {backwardData, 710, descriptorType, 1, 1},
    {backwardData, 711, descriptorType, 1, 1},
    {backwardFilter, 712, floating, 1, 1},
    {backwardFilter, 713, floating, 1, 1},
    {backwardFilter, 714, descriptorType, 1, 1},
    {backwardFilter, 715, descriptorType, 1, 1},
    {backwardFilter, 716, descriptorType, 1, 1},
    {backwardFilter, 717, descriptorType, 1, 1},
    {pointwiseOperation, 750, descriptorType, 1, 1},
    {pointwiseOperation, 751, descriptorType, 1, 1},
    {pointwiseOperation, 752, descriptorType, 1, 1},
    {pointwiseOperation, 753, descriptorType, 1, 1},
    {operationGraph, 800, handleType, 1, 1},
    {operationGraph, 801, descriptorType, 1, 16},
    {tensor, 900, int64, 1, 1},
    {tensor, 901, dataType, 1, 1},
    {tensor, 902, int64, 4, 4},
    {tensor, 903, int64, 4, 4},
    {tensor, 906, int64, 1, 1},
    {tensor, 907, boolean, 1, 1, false},
    {variantPack, 1000, int64, 1, 16},
    {variantPack, 1001, voidPointer, 1, 16},
    {variantPack, 1003, voidPointer, 1, 1},
};

struct Engine {
  int64_t index;
  std::vector<int32_t> notes;
  int64_t workspace;
  bool supported, wrong;
};

struct Descriptor {
  int kind;
  bool finalized = false;
  struct Value {
    int64_t count;
    std::vector<unsigned char> bytes;
  };
  std::map<int, Value> values;
  std::vector<Operation> operations;  // of a graph
  std::vector<Engine> engines;        // that heuristics advise; the one of a configuration or an engine
  Descriptor* origin = nullptr;       // the graph of heuristics and configurations

  template <class T>
  std::vector<T> all(int attribute) const {
    const Value& v = values.at(attribute);
    std::vector<T> elements(static_cast<size_t>(v.count));
    std::memcpy(elements.data(), v.bytes.data(), v.bytes.size());
    return elements;
  }
  template <class T>
  T one(int attribute) const {
    return all<T>(attribute)[0];
  }
};

struct Handle {
  bool hasStream = false;
};

std::set<const Descriptor*> living;
std::set<const Handle*> handles;
std::string lastError;

void log(const std::string& line) {
  const char* path = std::getenv("DDPM_FAKE_CUDNN_LOG");
  FILE* file = path ? std::fopen(path, "a") : nullptr;
  if (!file) return;
  std::fprintf(file, "%s\n", line.c_str());
  std::fclose(file);
}

Status misuse(Status status, const std::string& what) {
  lastError = what;
  log("misuse: " + what);
  return status;
}

// What goes wrong by itself, in the real one too.
Status refuse(Status status, const std::string& what) {
  lastError = what;
  return status;
}

// The value of an option of DDPM_FAKE_CUDNN; null when it is not there.
const char* option(const std::string& name) {
  static std::string found;
  std::stringstream list(std::getenv("DDPM_FAKE_CUDNN") ? std::getenv("DDPM_FAKE_CUDNN") : "");
  for (std::string entry; std::getline(list, entry, ',');) {
    if (entry != name && entry.rfind(name + "=", 0) != 0) continue;
    found = entry.size() > name.size() ? entry.substr(name.size() + 1) : "";
    return found.c_str();
  }
  return nullptr;
}

bool isLiving(const Descriptor* d, int kind) { return living.count(d) && d->kind == kind && d->finalized; }

std::string named(int kind, int attribute) {
  return "descriptor " + std::to_string(kind) + ", attribute " + std::to_string(attribute);
}

const Rule* ruleOf(int kind, int attribute) {
  for (const Rule& r : kRules)
    if (r.kind == kind && r.attribute == attribute) return &r;
  return nullptr;
}

// ---------------------------------------------------------------------------------------------------------------------
// Finalizing, by kind

bool tensorOf(const Descriptor* d, TensorInfo& t) {
  if (!isLiving(d, tensor)) return false;
  const auto dims = d->all<int64_t>(902), strides = d->all<int64_t>(903);
  t.id = d->one<int64_t>(906);
  t.alignment = d->one<int64_t>(900);
  t.dataType = d->one<int32_t>(901);
  std::copy(dims.begin(), dims.end(), t.dims.begin());
  std::copy(strides.begin(), strides.end(), t.strides.begin());
  t.isVirtual = d->values.count(907) && d->values.at(907).bytes[0];
  return true;
}

bool convolutionOf(const Descriptor* d, Operation& o) {
  if (!isLiving(d, convolution)) return false;
  const auto dilations = d->all<int64_t>(102), strides = d->all<int64_t>(103), behind = d->all<int64_t>(104),
             before = d->all<int64_t>(105);
  if (d->one<int64_t>(106) != 2 || d->one<int32_t>(100) != 0 || d->one<int32_t>(101) != 1) return false;
  for (size_t i = 0; i < 2; ++i) {
    if (dilations[i] != 1 || strides[i] < 1 || before[i] < 0 || behind[i] < 0) return false;
    o.stride[i] = strides[i];
    o.before[i] = before[i];
    o.behind[i] = behind[i];
  }
  return true;
}

bool operationOf(const Descriptor* d, Operation& o) {
  if (!living.count(d) || !d->finalized) return false;
  const auto tensorAt = [&](int attribute, TensorInfo& t) { return tensorOf(d->one<Descriptor*>(attribute), t); };
  const auto scaled = [&](int alpha, int beta) {
    o.alpha = d->one<float>(alpha);
    o.beta = d->one<float>(beta);
    return true;
  };
  switch (d->kind) {
    case forward:
      o.kind = Kind::forward;
      return scaled(700, 701) && convolutionOf(d->one<Descriptor*>(702), o) && tensorAt(703, o.w) &&
             tensorAt(704, o.x) && tensorAt(705, o.y);
    case backwardData:
      o.kind = Kind::backwardData;
      return scaled(706, 707) && convolutionOf(d->one<Descriptor*>(708), o) && tensorAt(709, o.w) &&
             tensorAt(710, o.x) && tensorAt(711, o.y);
    case backwardFilter:
      o.kind = Kind::backwardFilter;
      return scaled(712, 713) && convolutionOf(d->one<Descriptor*>(714), o) && tensorAt(715, o.w) &&
             tensorAt(716, o.x) && tensorAt(717, o.y);
    case pointwiseOperation: {
      o.kind = Kind::add;
      const auto* mode = d->one<Descriptor*>(750);
      return isLiving(mode, pointwise) && mode->one<int32_t>(0) == 0 && mode->one<int32_t>(1) == 0 &&
             tensorAt(751, o.x) && tensorAt(752, o.w) && tensorAt(753, o.y);
    }
    default:
      return false;
  }
}

// Why the dimensions of an operation don't fit; empty when they do.
std::string whyNot(const Operation& o) {
  if (o.kind == Kind::add) {
    for (size_t d = 0; d < 4; ++d)
      if (o.x.dims[d] != o.y.dims[d] || (o.w.dims[d] != 1 && o.w.dims[d] != o.y.dims[d]))
        return "the addends' dimensions do not fit";
    return "";
  }
  if (o.x.dims[0] != o.y.dims[0] || o.w.dims[0] != o.y.dims[1] || o.w.dims[1] != o.x.dims[1])
    return "samples or channels do not fit";
  for (size_t d = 0; d < 2; ++d)
    if ((o.x.dims[d + 2] + o.before[d] + o.behind[d] - o.w.dims[d + 2]) / o.stride[d] + 1 != o.y.dims[d + 2])
      return "the size of the response does not follow from image, filter and padding";
  return "";
}

Status finalizeTensor(const Descriptor& d) {
  const int64_t alignment = d.one<int64_t>(900);
  if (alignment < 1 || alignment > 16 || (alignment & (alignment - 1)))
    return misuse(badParam, "a tensor's alignment is " + std::to_string(alignment));
  for (int64_t n : d.all<int64_t>(902))
    if (n < 1) return misuse(badParam, "a dimension of a tensor is " + std::to_string(n));
  for (int64_t s : d.all<int64_t>(903))
    if (s < 1) return misuse(badParam, "a stride of a tensor is " + std::to_string(s));
  return ok;
}

Status finalizeGraph(Descriptor& d) {
  if (!handles.count(d.one<Handle*>(800))) return misuse(badParam, "a graph's handle is none");
  std::map<int64_t, TensorInfo> known;
  std::set<int64_t> written;
  for (Descriptor* part : d.all<Descriptor*>(801)) {
    Operation o;
    if (!operationOf(part, o))
      return misuse(notFinalized, "an operation of a graph, or what it refers to, is not valid");
    if (const std::string why = whyNot(o); !why.empty()) return misuse(badParam, why);
    for (const TensorInfo* t : {&o.x, &o.w, &o.y}) {
      const auto [found, isNew] = known.emplace(t->id, *t);
      if (!isNew && (found->second.dims != t->dims || found->second.isVirtual != t->isVirtual))
        return misuse(badParam, "two tensors of a graph have the id " + std::to_string(t->id));
    }
    const TensorInfo& to = o.kind == Kind::backwardData ? o.x : o.kind == Kind::backwardFilter ? o.w : o.y;
    for (const TensorInfo* t : {&o.x, &o.w, &o.y})
      if (t->isVirtual && t->id != to.id && !written.count(t->id))
        return misuse(badParam, "a virtual tensor is read before it is written");
    if (!written.insert(to.id).second) return misuse(badParam, "a tensor is written twice");
    d.operations.push_back(o);
  }
  return ok;
}

Status finalizeHeuristics(Descriptor& d) {
  d.origin = d.one<Descriptor*>(201);
  if (!isLiving(d.origin, operationGraph)) return misuse(notFinalized, "heuristics of a graph that is not finalized");
  const int mode = d.one<int32_t>(200);
  if (mode != 3 && mode != 2) return misuse(badParam, "heuristic mode " + std::to_string(mode));
  if (option("no-engines")) return ok;
  if (d.origin->operations.size() > 1 && option("no-fusion"))
    return refuse(graphPattern, "no engine for a graph of several operations");
  const int64_t workspace = option("big-workspace") ? int64_t(1) << 40 : 4096;
  if (mode == 2) {
    d.engines = {{6, {}, option("big-workspace") ? workspace : 0, true, false}};
    return ok;
  }
  constexpr int tensorCore = 0, downConvert = 1, reduced = 2, fft = 3, nondeterministic = 4, winograd6 = 7;
  const bool narrow = d.origin->operations[0].x.dataType != 0;
  d.engines = {{10, {tensorCore, downConvert}, 0, true, true},
               {11, {nondeterministic}, 0, true, true},
               {12, {reduced}, 0, true, true},
               {13, {fft}, 0, true, true},
               {14, {winograd6}, 0, true, true},
               {2, {}, 0, false, true},
               {3, {}, workspace, true, false},
               {4, {}, option("big-workspace") ? workspace : 0, true, false}};
  d.engines.insert(d.engines.begin(), {5, {tensorCore}, workspace, true, !narrow});
  return ok;
}

Status finalizePlan(Descriptor& d) {
  Descriptor* config = d.one<Descriptor*>(401);
  if (!isLiving(config, engineConfig)) return misuse(notFinalized, "a plan of a configuration that is not finalized");
  d.origin = config->origin;
  d.engines = config->engines;
  return d.engines[0].supported ? ok : refuse(notSupported, "engine 2 does not support the graph");
}

Status finalizePack(const Descriptor& d) {
  if (d.values.at(1000).count != d.values.at(1001).count)
    return misuse(badParam, "a variant pack has not as many ids as pointers");
  return ok;
}

Status finalize(Descriptor& d) {
  for (const Rule& r : kRules)
    if (r.kind == d.kind && r.required && !d.values.count(r.attribute))
      return misuse(badParam, named(d.kind, r.attribute) + " was not set");
  switch (d.kind) {
    case tensor:
      return finalizeTensor(d);
    case operationGraph:
      return finalizeGraph(d);
    case engineHeur:
      return finalizeHeuristics(d);
    case plan:
      return finalizePlan(d);
    case variantPack:
      return finalizePack(d);
    case forward:
    case backwardData:
    case backwardFilter:
    case pointwiseOperation: {
      Operation o;
      Descriptor probe = d;
      probe.finalized = true;
      living.insert(&probe);
      const bool valid = operationOf(&probe, o);
      living.erase(&probe);
      return valid ? ok : misuse(notFinalized, "an operation refers to what is not valid");
    }
    case engine:
    case engineConfig:
      return misuse(badParam, "engines and their configurations come from the heuristics");
    default:
      return ok;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

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
  if (asked > 0) std::memcpy(into, values.data(), sizeof(T) * size_t(std::min<int64_t>(asked, int64_t(values.size()))));
  return ok;
}

[[maybe_unused]] Status execute(const Descriptor& p, const Descriptor& pack) {
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
  compute(p.origin->operations, byId, e.wrong);
  static const char* const kinds[] = {"forward", "dgrad", "wgrad", "add"};
  log("execute " + std::string(kinds[int(p.origin->operations[0].kind)]) + ", engine " + std::to_string(e.index) +
      ", operations " + std::to_string(p.origin->operations.size()));
  return ok;
}

}  // namespace
}  // namespace fake

// ---------------------------------------------------------------------------------------------------------------------
// The API

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
  if (fake::option("create-fails")) return fake::refuse(fake::allocationFailed, "asked to");
  *handle = new Handle;
  fake::handles.insert(*handle);
  return fake::ok;
}

FAKE_API int cudnnSetStream(Handle* handle, void*) {
  if (!fake::handles.count(handle)) return fake::misuse(fake::badParam, "no handle");
  handle->hasStream = true;
  return fake::ok;
}

FAKE_API int cudnnBackendCreateDescriptor(int kind, Descriptor** descriptor) {
  for (const int known : {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 15, 16, 17})
    if (kind == known) {
      *descriptor = new Descriptor{kind, false, {}, {}, {}, nullptr};
      fake::living.insert(*descriptor);
      return fake::ok;
    }
  return fake::misuse(fake::badParam, "descriptor type " + std::to_string(kind));
}

FAKE_API int cudnnBackendDestroyDescriptor(Descriptor* d) {
  if (!fake::living.erase(d)) return fake::misuse(fake::badParam, "what is destroyed is no descriptor");
  delete d;
  return fake::ok;
}

FAKE_API int cudnnBackendSetAttribute(Descriptor* d, int attribute, int type, int64_t count, const void* elements) {
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
  if (!fake::living.count(d)) return fake::misuse(fake::badParam, "no descriptor");
  if (d->finalized) return fake::misuse(fake::badParam, "a descriptor is finalized twice");
  const fake::Status status = fake::finalize(*d);
  d->finalized = status == fake::ok;
  return status;
}

#ifndef FAKE_CUDNN_LACKS_EXECUTE
FAKE_API int cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
  if (!fake::handles.count(handle) || !handle->hasStream)
    return fake::misuse(fake::badParam, "execution without a handle or its stream");
  if (!fake::isLiving(plan, fake::plan) || !fake::isLiving(pack, fake::variantPack))
    return fake::misuse(fake::notFinalized, "what is executed is not finalized");
  return fake::execute(*plan, *pack);
}
#endif
