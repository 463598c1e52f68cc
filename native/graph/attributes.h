// An op's attributes: a small map from names to numbers, booleans, strings and lists of numbers.
#pragma once
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "native/graph/error.h"

namespace ddpm {

class Attributes {
 public:
  using Entry = std::variant<double, bool, std::string, std::vector<double>>;

  Attributes() = default;
  Attributes(std::initializer_list<std::pair<const std::string, Entry>> entries) : entries_(entries) {}

  void set(const std::string& name, Entry value) { entries_[name] = std::move(value); }
  bool has(const std::string& name) const { return entries_.count(name) > 0; }

  // These throw invalid-argument where the attribute is absent or of another kind.
  double number(const std::string& name) const { return get<double>(name, "a number"); }
  const std::string& string(const std::string& name) const { return get<std::string>(name, "a string"); }
  const std::vector<double>& list(const std::string& name) const {
    return get<std::vector<double>>(name, "a list of numbers");
  }
  bool boolean(const std::string& name) const { return get<bool>(name, "a boolean"); }
  int64_t integer(const std::string& name) const {
    const double v = number(name);
    if (!(v >= -9007199254740991.0 && v <= 9007199254740991.0) || v != double(int64_t(v))) {
      throw Failure::argumentOf("attributes", name, "an integer", std::to_string(v));
    }
    return int64_t(v);
  }
  // For internal ops, where what is absent is false.
  bool flag(const std::string& name) const { return has(name) && boolean(name); }

  const std::map<std::string, Entry>& entries() const { return entries_; }

 private:
  template <class T>
  const T& get(const std::string& name, const char* kind) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) throw Failure::argumentOf("attributes", name, kind, "nothing");
    const T* value = std::get_if<T>(&found->second);
    if (!value) throw Failure::argumentOf("attributes", name, kind, "another type");
    return *value;
  }

  std::map<std::string, Entry> entries_;
};

}  // namespace ddpm
