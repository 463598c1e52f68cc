#include "test/fake-cudart/faults.h"

#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "test/fake-cudart/report.h"

namespace fake {
namespace {

std::mutex lock;
std::string given, call;
size_t remaining;
cudaError_t status;
bool hangs;
std::map<int, cudaError_t> lost;  // by device

void parse(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) violation("FAKE_CUDART_FAIL is " + text);
  const size_t number = text.find('#');
  call = text.substr(0, std::min(number, equals));
  remaining = number < equals ? size_t(std::atoi(text.c_str() + number + 1)) : 1;
  const std::string what = text.substr(equals + 1);
  hangs = what == "hang";
  status = hangs ? cudaErrorUnknown : cudaError_t(std::atoi(what.c_str()));
}

// Those after which every call fails; cudaErrorUnknown among them, since drivers give it for what they have no name
// for.
bool isSticky(cudaError_t s) {
  switch (s) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

cudaError_t faultOf(const char* name, int device) {
  {
    const std::lock_guard guard(lock);
    if (const auto found = lost.find(device); found != lost.end()) return found->second;
  }
  return ownFaultOf(name, device);
}

cudaError_t ownFaultOf(const char* name, int device) {
  const std::lock_guard guard(lock);
  const char* text = std::getenv("FAKE_CUDART_FAIL");
  if (given != (text ? text : "")) {
    given = text ? text : "";
    call.clear();
    if (!given.empty()) parse(given);
  }
  if (call.empty() || call != name || --remaining > 0) return cudaSuccess;
  call.clear();
  count("fault");
  while (hangs) pause();
  if (isSticky(status)) lost[device] = status;
  return status;
}

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace fake
