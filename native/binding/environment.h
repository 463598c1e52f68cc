// What the addon keeps for each environment (the main thread, each worker): its devices, the constructors of its
// classes, and the way back from the devices' threads to promises.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "native/runtime/device.h"

namespace ddpm::binding {

// A promise that a device's thread will settle.
struct Completion {
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference result;  // what it resolves to; empty: undefined
  std::optional<Failure> failure;

  explicit Completion(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
};

class Environment {
 public:
  // Once an environment, when the addon is loaded in it.
  static void create(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  explicit Environment(Napi::Env env);
  ~Environment();

  void addDevice(std::shared_ptr<Device> device) { devices_.push_back(std::move(device)); }

  // Submits work to a device and returns the promise of its end, which resolves to `result`.
  Napi::Promise promise(Napi::Env env, Device& device, std::function<void()> work, const Napi::Object& result = {});

  Napi::FunctionReference deviceClass, bufferClass, graphClass, programClass;

 private:
  static void settle(Napi::Env env, Napi::Function, std::nullptr_t*, Completion* completion);
  static void onExit(void* environment);

  using Channel = Napi::TypedThreadSafeFunction<std::nullptr_t, Completion, settle>;

  Channel channel_;
  uint32_t pending_ = 0;  // while it is not zero the channel keeps the event loop alive
  std::vector<std::shared_ptr<Device>> devices_;
};

}  // namespace ddpm::binding
