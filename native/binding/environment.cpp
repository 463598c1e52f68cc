#include "native/binding/environment.h"

#include <algorithm>
#include <atomic>

#include "native/binding/convert.h"

namespace ddpm::binding {

void Environment::create(Napi::Env env) {
  env.SetInstanceData(new Environment(env));
  // Hooks run in the reverse order of their making: this one before the channel's own.
  napi_add_env_cleanup_hook(env, onExit, &of(env));
}

Environment::Environment(Napi::Env env)
    : channel_(Channel::New(env, "ddpm-native", /*maxQueueSize*/ 0, /*initialThreadCount*/ 1)) {
  channel_.Unref(env);
}

Environment::~Environment() {
  // The environment is gone, and with it what these refer to.
  for (auto* reference : {&deviceClass, &bufferClass, &graphClass, &programClass, &worldClass, &floatArray})
    reference->SuppressDestruct();
}

void Environment::addDevice(std::shared_ptr<Device> device) {
  std::erase_if(devices_, [](const auto& d) { return d->isClosed(); });
  devices_.push_back(std::move(device));
}

void Environment::closeDevices() {
  for (const auto& device : devices_) device->close();
}

// When a worker ends, or the main thread has nothing left to do, be it in the middle of a step: afterwards no thread of
// ours is left, and nothing will be sent to an environment that is gone.
void Environment::onExit(void* environment) {
  Environment& self = *static_cast<Environment*>(environment);
  self.leaveWorld(false);
  self.closeDevices();
  self.channel_.Release();
}

Napi::Promise Environment::promise(Napi::Env env, Device& device, Device::Work work, const Napi::Object& result) {
  const auto whole = [work = std::move(work)] {
    work();
    return false;
  };
  return promiseOfPieces(env, device, whole, result);
}

template <class Submit>
Napi::Promise Environment::promiseBy(Napi::Env env, std::function<Napi::Value(Napi::Env)> make, const Submit& submit) {
  auto owned = std::make_unique<Completion>(env);
  const Napi::Promise promise = owned->deferred.Promise();
  owned->make = std::move(make);
  submit(doneOf(owned.get()));
  owned.release();  // by `settle`
  launched(env);
  return promise;
}

Napi::Promise Environment::promise(Napi::Env env, Device& device, Device::Work work,
                                   std::function<Napi::Value(Napi::Env)> make) {
  return promiseBy(env, std::move(make), [&](Device::Done done) { device.submit(std::move(work), std::move(done)); });
}

Napi::Promise Environment::promiseOfPieces(Napi::Env env, Device& device, Device::Piece piece,
                                           const Napi::Object& result) {
  auto owned = std::make_unique<Completion>(env);
  const Napi::Promise promise = owned->deferred.Promise();
  if (!result.IsEmpty()) owned->result = Napi::Persistent(result);
  device.submitPieces(std::move(piece), doneOf(owned.get()));
  owned.release();  // by `settle`
  launched(env);
  return promise;
}

Napi::Promise Environment::promiseBeside(Napi::Env env, Device& device, std::function<void()> work,
                                         std::function<Napi::Value(Napi::Env)> make) {
  return promiseBy(env, std::move(make),
                   [&](Device::Done done) { device.submitBeside(std::move(work), std::move(done)); });
}

Napi::Promise Environment::promiseOfWorld(Napi::Env env, World& world, std::function<void()> work,
                                          std::function<Napi::Value(Napi::Env)> make) {
  return promiseBy(env, std::move(make), [&](Device::Done done) { world.submit(std::move(work), std::move(done)); });
}

namespace {
// Of the process, which joins one world.
std::atomic<const Environment*> worldOwner{nullptr};
}  // namespace

void Environment::ownWorld(std::shared_ptr<World> world) {
  const Environment* none = nullptr;
  if (!worldOwner.compare_exchange_strong(none, this) && none != this)
    throw Failure("unsupported", "another thread of this process has joined the world");
  if (std::find(worlds_.begin(), worlds_.end(), world) == worlds_.end()) worlds_.push_back(std::move(world));
}

void Environment::leaveWorld(bool inOrder) {
  for (auto world = worlds_.rbegin(); world != worlds_.rend(); ++world) (*world)->leave(inOrder);
}

Device::Done Environment::doneOf(Completion* completion) {
  return [this, completion](Outcome outcome) {
    completion->outcome = std::move(outcome);
    channel_.NonBlockingCall(completion);  // refused only while the environment ends, which forgets the promise anyway
  };
}

void Environment::launched(Napi::Env env) {
  if (pending_++ == 0) channel_.Ref(env);
}

void Environment::settle(Napi::Env env, Napi::Function, std::nullptr_t*, Completion* completion) {
  if (!env) {  // the environment ends: its references are gone, memory is ours to free
    completion->result.SuppressDestruct();
    delete completion;
    return;
  }
  const std::unique_ptr<Completion> owned(completion);
  const Napi::HandleScope scope(env);
  Environment& self = of(env);
  if (--self.pending_ == 0) self.channel_.Unref(env);
  try {
    if (completion->outcome) {
      completion->deferred.Reject(toError(env, *completion->outcome).Value());
    } else if (completion->make) {
      completion->deferred.Resolve(completion->make(env));
    } else if (completion->result.IsEmpty()) {
      completion->deferred.Resolve(env.Undefined());
    } else {
      completion->deferred.Resolve(completion->result.Value());
    }
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no more JavaScript.
  }
}

}  // namespace ddpm::binding
