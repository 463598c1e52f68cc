#include "native/runtime/world.h"

#include <future>
#include <mutex>

namespace ddpm {
namespace {

// Never destroyed: its thread may outlive static objects.
struct Joined {
  std::mutex mutex;
  std::shared_ptr<World> world;
};
Joined& theJoined() {
  static auto& joined = *new Joined;
  return joined;
}

}  // namespace

std::shared_ptr<World> World::joined() {
  Joined& joined = theJoined();
  const std::lock_guard lock(joined.mutex);
  return joined.world;
}

void World::setJoined(std::shared_ptr<World> world) {
  Joined& joined = theJoined();
  const std::lock_guard lock(joined.mutex);
  joined.world = std::move(world);
}

void World::call(const Device::Work& work) {
  std::promise<Outcome> end;
  submit(work, [&](Outcome outcome) { end.set_value(std::move(outcome)); });
  const Outcome outcome = end.get_future().get();
  if (outcome) throw Failure(*outcome);
}

}  // namespace ddpm
