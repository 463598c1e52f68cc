#include "native/runtime/at_exit.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace ddpm {
namespace {

struct Devices {
  std::mutex mutex;
  std::vector<std::weak_ptr<Device>> all;
};

Devices& devices() {
  static Devices& opened = *new Devices;  // never destroyed: exit handlers use it
  return opened;
}

void closeAll() {
  std::vector<std::weak_ptr<Device>> all;
  {
    const std::lock_guard lock(devices().mutex);
    all.swap(devices().all);
  }
  for (const auto& weak : all) {
    if (const std::shared_ptr<Device> device = weak.lock()) device->close();
  }
}

}  // namespace

void endAtExit(const std::shared_ptr<Device>& device) {
  const std::lock_guard lock(devices().mutex);
  std::erase_if(devices().all, [](const auto& weak) { return weak.expired(); });
  devices().all.push_back(device);
}

// Handlers run in the reverse order of their registration, in one row with the destructors of static objects.
void beginExitHere() { std::atexit(closeAll); }

}  // namespace ddpm
