// What may be set on each kind of descriptor, and what makes it valid when it is finalized.
#include "test/fake-cudnn/descriptor.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace fake {

std::set<const Descriptor*> living;
std::set<const Handle*> handles;
thread_local std::string lastError;
std::mutex lock;

namespace {

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

}  // namespace

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

Status refuse(Status status, const std::string& what) {
  lastError = what;
  return status;
}

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

static bool tensorOf(const Descriptor* d, TensorInfo& t) {
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

static bool convolutionOf(const Descriptor* d, Operation& o) {
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
static std::string whyNot(const Operation& o) {
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

static Status finalizeTensor(const Descriptor& d) {
  const int64_t alignment = d.one<int64_t>(900);
  if (alignment < 1 || alignment > 16 || (alignment & (alignment - 1)))
    return misuse(badParam, "a tensor's alignment is " + std::to_string(alignment));
  for (int64_t n : d.all<int64_t>(902))
    if (n < 1) return misuse(badParam, "a dimension of a tensor is " + std::to_string(n));
  for (int64_t s : d.all<int64_t>(903))
    if (s < 1) return misuse(badParam, "a stride of a tensor is " + std::to_string(s));
  return ok;
}

static Status finalizeGraph(Descriptor& d) {
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

static Status finalizeHeuristics(Descriptor& d) {
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

static Status finalizePlan(Descriptor& d) {
  Descriptor* config = d.one<Descriptor*>(401);
  if (!isLiving(config, engineConfig)) return misuse(notFinalized, "a plan of a configuration that is not finalized");
  d.origin = config->origin;
  d.engines = config->engines;
  return d.engines[0].supported ? ok : refuse(notSupported, "engine 2 does not support the graph");
}

static Status finalizePack(const Descriptor& d) {
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

}  // namespace fake
