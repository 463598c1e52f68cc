// Descriptors of the stand-in for cuDNN: what they hold, what may be set on them, and whether they are valid.
#pragma once
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "test/fake-cudnn/compute.h"

namespace fake {

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

// Of both kinds those that were created and not destroyed.
extern std::set<const Descriptor*> living;
extern std::set<const Handle*> handles;
extern thread_local std::string lastError;
// Of all of this: different threads may use different handles at the same time. Not held while a plan is built.
extern std::mutex lock;

void log(const std::string& line);
Status misuse(Status status, const std::string& what);
// What goes wrong by itself, in the real one too.
Status refuse(Status status, const std::string& what);
// The value of an option of DDPM_FAKE_CUDNN; null when it is not there.
const char* option(const std::string& name);

size_t sizeOf(int type);
std::string named(int kind, int attribute);
const Rule* ruleOf(int kind, int attribute);
bool isLiving(const Descriptor* d, int kind);
// The operation that a descriptor stands for; false where it, or what it refers to, is not valid.
bool operationOf(const Descriptor* d, Operation& o);
Status finalize(Descriptor& d);

}  // namespace fake
