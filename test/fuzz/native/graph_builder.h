// Graphs from bytes. What a node needs is made as it would be in earnest (a convolution's weights have its input's
// channels), and now and then it is anything else: wrong values, attributes that are absent, of another type, or not
// numbers.
#pragma once
#include <vector>

#include "native/graph/op.h"
#include "test/fuzz/native/bytes.h"

namespace ddpm::fuzz {

class GraphBuilder {
 public:
  explicit GraphBuilder(Bytes& bytes) : bytes_(bytes) {}

  // Adds a node, or is refused with a Failure, which is dropped.
  void addNode();
  void toggleRegion();
  // Differentiates some value, likewise.
  void differentiate();

  const Graph& graph() const { return graph_; }
  ValueId anyValue();

 private:
  bool hostile() { return bytes_.byte() >= 248; }
  Attributes::Entry hostileEntry();
  Attributes::Entry plausibleEntry(const std::string& name, const Dims& x);
  ValueId hostileValue();
  ValueId plausibleValue(const std::string& name, const OpDef& op, const Dims& x);

  ValueId input(const Dims& dims, const char* dtype = "f32");
  ValueId parameter(const std::vector<double>& shape);
  // A value that has these dims; else a new input.
  ValueId like(const Dims& dims);

  Bytes& bytes_;
  Graph graph_;
  int names_ = 0;
  int64_t weights_ = 0;
};

}  // namespace ddpm::fuzz
