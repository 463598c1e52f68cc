#include "native/runtime/device_world.h"

#include <algorithm>
#include <future>
#include <vector>

namespace ddpm {
namespace {

const Links& linksOf(const Device& device) {
  if (device.backend().links) return *device.backend().links;
  throw Failure::argumentOf("join", "device", "one that NCCL serves: 'cuda'", device.backend().name);
}

// Does it on the device's thread.
void doThere(Device& device, Device::Work work) {
  std::promise<Outcome> end;
  device.submit(std::move(work), [&](Outcome outcome) { end.set_value(std::move(outcome)); });
  const Outcome outcome = end.get_future().get();
  if (outcome) throw Failure(*outcome);
}

void require(bool ok, const Error& error) {
  if (!ok) throw toFailure(error);
}

}  // namespace

std::string DeviceWorld::makeId(const std::shared_ptr<Device>& device) {
  const Links& links = linksOf(*device);
  std::string id(Links::kIdBytes, '\0');
  doThere(*device, [&] {
    Error error;
    require(links.makeId(device->handle(), id.data(), &error), error);
  });
  return id;
}

std::shared_ptr<DeviceWorld> DeviceWorld::join(std::shared_ptr<Device> device, const std::string& id, int32_t rank,
                                               int32_t size, double seconds) {
  if (id.size() != Links::kIdBytes)
    throw Failure::argumentOf("join", "id", std::to_string(Links::kIdBytes) + " bytes", std::to_string(id.size()));
  if (size < 1 || rank < 0 || rank >= size)
    throw Failure::argumentOf("join", "rank", "one of 0 to size - 1",
                              std::to_string(rank) + " of " + std::to_string(size));
  std::shared_ptr<DeviceWorld> world(new DeviceWorld(std::move(device), rank, size));
  Device& there = *world->device_;
  const Links& links = world->links_;
  doThere(there, [&] {
    Error error;
    links.setTimeout(there.handle(), seconds);
    require(links.join(there.handle(), id.data(), rank, size, &error), error);
    char text[256] = "";
    links.library(there.handle(), text, sizeof text);
    world->library_ = text;
  });
  setJoined(world);
  return world;
}

DeviceWorld::DeviceWorld(std::shared_ptr<Device> device, int32_t rank, int32_t size)
    : device_(std::move(device)), links_(linksOf(*device_)), rank_(rank), size_(size) {}

DeviceWorld::~DeviceWorld() { device_->release(staged_); }

void DeviceWorld::submit(Device::Work work, Device::Done done) {
  if (ends_) throw Failure("closed", "this process has left the world");
  const auto whole = [this, work = std::move(work)] {
    if (failed_) throw Failure(*failed_);
    try {
      work();
    } catch (const Failure& failure) {
      failed_ = std::make_shared<Failure>(failure);
      throw;
    }
  };
  device_->submit(whole, std::move(done));
}

// Memory for what the host gives and gets.
char* DeviceWorld::stage(size_t bytes) {
  if (bytes > stagedBytes_) {
    device_->release(staged_);
    staged_ = nullptr;
    stagedBytes_ = 0;
    staged_ = static_cast<char*>(device_->allocate(bytes));
    stagedBytes_ = bytes;
  }
  return staged_;
}

void DeviceWorld::barrier() {
  std::vector<char> all(size_t(size_), 0);
  std::vector<Part> parts;
  for (size_t r = 0; r < all.size(); ++r) parts.push_back({r, 1});
  gather(all.data(), parts.data());
}

void DeviceWorld::broadcast(void* data, size_t bytes, int32_t root) {
  std::vector<Part> parts(static_cast<size_t>(size_), Part{0, 0});
  parts[size_t(root)].bytes = bytes;
  gather(data, parts.data());
}

void DeviceWorld::gather(void* data, const Part* parts) {
  size_t extent = 0;
  for (int32_t r = 0; r < size_; ++r) extent = std::max(extent, parts[r].offset + parts[r].bytes);
  if (extent == 0) return;
  char* there = stage(extent);
  const Backend& backend = device_->backend();
  Error error;
  const Part& own = parts[rank_];
  require(
      backend.copyIn(device_->handle(), there + own.offset, static_cast<char*>(data) + own.offset, own.bytes, &error),
      error);
  countSent(own.bytes * size_t(size_ - 1));
  gatherThere(there, parts);
  require(backend.copyOut(device_->handle(), data, there, extent, &error), error);
}

void DeviceWorld::exchangeThere(const void* from, const Part* sent, void* to, const Part* received) {
  Error error;
  require(links_.exchange(device_->handle(), from, sent, to, received, &error), error);
}

void DeviceWorld::gatherThere(void* data, const Part* parts) {
  Error error;
  require(links_.gather(device_->handle(), data, parts, &error), error);
}

DeviceWorld::Aside::Aside(const DeviceWorld& world) : world_(world) {
  Error error;
  require(world_.links_.beginAside(world_.device_->handle(), &error), error);
}

DeviceWorld::Aside::~Aside() {
  Error error;
  world_.links_.endAside(world_.device_->handle(), &error);
}

void DeviceWorld::awaitAside() const {
  Error error;
  require(links_.awaitAside(device_->handle(), &error), error);
}

void DeviceWorld::check() const {
  Error error;
  require(links_.check(device_->handle(), &error), error);
}

void DeviceWorld::setTimeout(double seconds) {
  if (!device_->isClosed()) links_.setTimeout(device_->handle(), seconds);
}

void DeviceWorld::abandon() {
  if (!device_->isClosed()) links_.abandon(device_->handle());
}

void DeviceWorld::leave(bool inOrder) {
  if (ends_.exchange(true)) return;
  if (!inOrder) return abandon();
  try {
    doThere(*device_, [this] {
      if (failed_) return;
      Error error;
      require(links_.leave(device_->handle(), &error), error);
    });
  } catch (const Failure&) {
    // The others are lost, or the device is: nobody waits for this one.
  }
}

}  // namespace ddpm
