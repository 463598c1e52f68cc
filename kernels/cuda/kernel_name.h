// The name of a kernel, for messages.
#pragma once
#include <string>
#include <string_view>

namespace ddpm::cuda {

template <auto kernel>
std::string kernelName() {
  // GCC and nvcc: "... [with auto kernel = ns::name<...>; ...]", Clang: "... [kernel = &ns::name<...>]".
  std::string_view text = __PRETTY_FUNCTION__;
  const size_t start = text.find("kernel = ");
  if (start == std::string_view::npos) return std::string(text);
  text.remove_prefix(start + 9);
  text = text.substr(0, text.find_first_of(";]"));
  const size_t scope = text.substr(0, text.find('<')).rfind("::");
  return std::string(scope == std::string_view::npos ? text : text.substr(scope + 2));
}

}  // namespace ddpm::cuda
