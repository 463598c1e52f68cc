// What is left of us when the process ends without a word to the addon: process.exit() on the main thread runs no
// cleanup hook, and exit() then destroys static objects while devices' threads work with them.
#pragma once
#include <memory>

#include "native/runtime/device.h"

namespace ddpm {

// The device is closed when the process ends, before static objects that exist now are destroyed.
void endAtExit(const std::shared_ptr<Device>& device);

// To be called when a library was loaded, whose static objects devices' threads will use.
void beginExitHere();

}  // namespace ddpm
