// The one C++ error of native/. The binding turns it into a JavaScript Error with the same fields.
#pragma once
#include <exception>
#include <string>
#include <utility>

namespace ddpm {

struct Failure : std::exception {
  // Stable codes: invalid-argument, out-of-memory, device-unavailable, unsupported, aborted, closed, bad-file, io,
  // internal.
  std::string code;
  std::string message;
  std::string argument, expected, received;  // empty where they say nothing

  Failure(std::string failureCode, std::string text) : code(std::move(failureCode)), message(std::move(text)) {}

  // An argument that is not what it should be. `where` names the op or function.
  static Failure argumentOf(const std::string& where, std::string argument, std::string expected,
                            std::string received) {
    Failure f("invalid-argument", where + ": " + argument + ": expected " + expected + ", received " + received);
    f.argument = std::move(argument);
    f.expected = std::move(expected);
    f.received = std::move(received);
    return f;
  }

  // A name or word that was received, for messages: not more of it than anybody reads.
  static std::string quoted(const std::string& text) {
    return "'" + (text.size() > 60 ? text.substr(0, 57) + "..." : text) + "'";
  }

  const char* what() const noexcept override { return message.c_str(); }
};

}  // namespace ddpm
