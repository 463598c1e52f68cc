#include "native/graph/backend_error.h"

namespace ddpm {

Failure toFailure(const Error& error) {
  const char* code = "internal";
  switch (error.code) {
    case ErrorCode::invalidArgument:
      code = "invalid-argument";
      break;
    case ErrorCode::outOfMemory:
      code = "out-of-memory";
      break;
    case ErrorCode::deviceUnavailable:
      code = "device-unavailable";
      break;
    case ErrorCode::unsupported:
      code = "unsupported";
      break;
    case ErrorCode::rankFailed:
      code = "rank-failed";
      break;
    case ErrorCode::none:
    case ErrorCode::internal:
      break;
  }
  return {code, error.message[0] ? error.message : "the backend failed and did not say why"};
}

}  // namespace ddpm
