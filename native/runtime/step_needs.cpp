#include "native/runtime/step_needs.h"

namespace ddpm {
namespace {

// An address that stands for memory: nothing is read or written there.
void* somewhere() { return reinterpret_cast<void*>(uintptr_t(1) << 46); }

template <class F>
void withKernel(const Device& device, const Step& step, const F& f) {
  const Backend& backend = device.backend();
  std::visit(
      [&](const auto& op) {
        using Op = std::decay_t<decltype(op)>;
#define DDPM_PICK(Name) \
  if constexpr (std::is_same_v<Op, Name>) f(backend.k##Name, op);
        DDPM_OPS(DDPM_PICK)
#undef DDPM_PICK
      },
      step);
}

struct Listing {
  const Device& device;
  const Step& step;
  StepNeeds needs;
  Error error;

  static void issue(void* self) {
    Listing& listing = *static_cast<Listing*>(self);
    withKernel(listing.device, listing.step, [&](const auto& kernel, const auto& op) {
      kernel.run(listing.device.handle(), op, somewhere(), &listing.error);
    });
  }
  static void add(void* self, const Launch& launch) { static_cast<Listing*>(self)->needs.launches.push_back(launch); }
};

}  // namespace

StepNeeds needsOf(const Device& device, const Step& step) {
  Listing listing = {device, step, {}, {}};
  withKernel(device, step, [&](const auto& kernel, const auto& op) {
    if (kernel.scratch && !kernel.scratch(device.handle(), op, &listing.needs.scratchBytes, &listing.error))
      throw toFailure(listing.error);
  });
  if (!device.backend().list) return listing.needs;
  listing.needs.known = true;
  Error error;
  if (!device.backend().list(device.handle(), Listing::issue, Listing::add, &listing, &error)) throw toFailure(error);
  if (listing.error.code != ErrorCode::none) throw toFailure(listing.error);
  return listing.needs;
}

}  // namespace ddpm
