// What the addon keeps for each environment (the main thread, each worker): its devices, the constructors of its
// classes, and the way back from the devices' threads to promises.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <vector>

#include "native/runtime/device.h"
#include "native/runtime/world.h"

namespace ddpm::binding {

// A promise that a device's thread will settle.
struct Completion {
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference result;  // what it resolves to; empty: undefined, or
  std::function<Napi::Value(Napi::Env)> make;
  Outcome outcome;

  explicit Completion(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
};

class Environment {
 public:
  // Once an environment, when the addon is loaded in it.
  static void create(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
  ~Environment();

  void addDevice(std::shared_ptr<Device> device);
  // Ends all threads of this environment. What they still had to do is rejected.
  void closeDevices();

  // Submits work to a device and returns the promise of its end, which resolves to `result`.
  Napi::Promise promise(Napi::Env env, Device& device, Device::Work work, const Napi::Object& result = {});
  // The same, which resolves to what `make` returns.
  Napi::Promise promise(Napi::Env env, Device& device, Device::Work work, std::function<Napi::Value(Napi::Env)> make);
  // The same with work in pieces.
  Napi::Promise promiseOfPieces(Napi::Env env, Device& device, Device::Piece piece, const Napi::Object& result = {});

  // The same beside the device's order (Device::submitBeside); resolves to what `make` then returns.
  Napi::Promise promiseBeside(Napi::Env env, Device& device, std::function<void()> work,
                              std::function<Napi::Value(Napi::Env)> make);

  // The same on the world's thread, which this environment then owns.
  Napi::Promise promiseOfWorld(Napi::Env env, World& world, std::function<void()> work,
                               std::function<Napi::Value(Napi::Env)> make = {});
  // Throws unsupported where another thread of this process has joined the world.
  void ownWorld(std::shared_ptr<World> world);
  // Leaves it, if this environment has joined one.
  void leaveWorld(bool inOrder);

  // Instances of the classes are told by a tag, which belongs to this environment of this copy of the addon: JavaScript
  // can change prototypes, and another copy has other C++ classes.
  enum class Kind : uint64_t { device, buffer, graph, program, world };
  napi_type_tag tagOf(Kind kind) const { return {reinterpret_cast<uint64_t>(this), uint64_t(kind)}; }

  Napi::FunctionReference deviceClass, bufferClass, graphClass, programClass, worldClass;
  Napi::FunctionReference floatArray;  // the constructor, as it was when the addon was loaded
  const void* constructing = nullptr;  // what objects.h construct() hands to a constructor

 private:
  // What `submit` hands over with the end that it is given.
  template <class Submit>
  Napi::Promise promiseBy(Napi::Env env, std::function<Napi::Value(Napi::Env)> make, const Submit& submit);
  Device::Done doneOf(Completion* completion);
  void launched(Napi::Env env);
  static void settle(Napi::Env env, Napi::Function, std::nullptr_t*, Completion* completion);
  static void onExit(void* environment);

  using Channel = Napi::TypedThreadSafeFunction<std::nullptr_t, Completion, settle>;

  Channel channel_;
  uint32_t pending_ = 0;  // while it is not zero the channel keeps the event loop alive
  std::vector<std::shared_ptr<Device>> devices_;
  std::vector<std::shared_ptr<World>> worlds_;  // in the order in which they were joined
};

}  // namespace ddpm::binding
