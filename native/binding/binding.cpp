// The addon's module object; lib/native.ts (NativeModule) documents it.
#include "kernels/cpu/peak.h"
#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/runtime/address_space.h"
#include "native/runtime/backends.h"
#include "native/runtime/random.h"

namespace ddpm::binding {
namespace {

Napi::Value backends(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const std::vector<std::string> names = backendNames();
    Napi::Array array = Napi::Array::New(info.Env(), names.size());
    for (uint32_t i = 0; i < names.size(); ++i) array.Set(i, names[i]);
    return array;
  });
}

// (seedLow, seedHigh, purpose, sample, step, n): 32-bit words, signed or not.
struct StreamCall {
  Stream stream;
  size_t n;

  explicit StreamCall(const Napi::CallbackInfo& info) {
    static const char* const names[] = {"seedLow", "seedHigh", "purpose", "sample", "step", "n"};
    uint32_t words[6];
    for (size_t i = 0; i < 6; ++i) {
      const double v = toNumber(info[i], names[i]);
      if (!(v >= INT32_MIN && v <= UINT32_MAX) || v != double(int64_t(v)) || (i == 5 && v < 0)) {
        throw Failure::argumentOf("stream", names[i], "a 32-bit integer", std::to_string(v));
      }
      words[i] = uint32_t(int64_t(v));
    }
    stream = {words[0], words[1], words[2], words[3], words[4]};
    n = words[5];
  }
};

Napi::Value normal(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const StreamCall call(info);
    Napi::Float32Array result = newFloats(info.Env(), double(call.n));
    fillNormal(call.stream, result.Data(), call.n);
    return result;
  });
}

Napi::Value philox(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const StreamCall call(info);
    const Napi::ArrayBuffer memory = newFloats(info.Env(), double(call.n)).ArrayBuffer();
    Napi::Uint32Array result = Napi::Uint32Array::New(info.Env(), call.n, memory, 0);
    fillWords(call.stream, result.Data(), call.n);
    return result;
  });
}

Napi::Value measureFmaPeak(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const int32_t threads = toInt(info[0], "threads");
    const double seconds = toNumber(info[1], "seconds");
    if (threads > 1024) throw Failure::argumentOf("native", "threads", "at most 1024", std::to_string(threads));
    if (!(seconds <= 60)) throw Failure::argumentOf("native", "seconds", "at most 60", std::to_string(seconds));
    return Napi::Number::New(info.Env(), cpu::measureFmaPeak(threads, seconds));
  });
}

Napi::Value closeDevices(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).closeDevices();
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  guard(env, [] { prepareAddressSpace(); });
  Environment::create(env);
  Environment& environment = Environment::of(env);
  environment.deviceClass = Napi::Persistent(NativeDevice::define(env));
  environment.bufferClass = Napi::Persistent(NativeBuffer::define(env));
  environment.graphClass = Napi::Persistent(NativeGraph::define(env));
  environment.programClass = Napi::Persistent(NativeProgram::define(env));
  environment.worldClass = Napi::Persistent(NativeWorld::define(env));
  environment.floatArray = Napi::Persistent(env.Global().Get("Float32Array").As<Napi::Function>());
  exports.Set("backends", Napi::Function::New<backends>(env, "backends"));
  exports.Set("openDevice", Napi::Function::New<NativeDevice::open>(env, "openDevice"));
  exports.Set("closeDevices", Napi::Function::New<closeDevices>(env, "closeDevices"));
  exports.Set("joinWorld", Napi::Function::New<NativeWorld::join>(env, "joinWorld"));
  exports.Set("joinDevices", Napi::Function::New<NativeWorld::joinById>(env, "joinDevices"));
  exports.Set("worldId", Napi::Function::New<NativeWorld::makeId>(env, "worldId"));
  exports.Set("createGraph", Napi::Function::New<NativeGraph::create>(env, "createGraph"));
  exports.Set("normal", Napi::Function::New<normal>(env, "normal"));
  exports.Set("philox", Napi::Function::New<philox>(env, "philox"));
  exports.Set("measureFmaPeak", Napi::Function::New<measureFmaPeak>(env, "measureFmaPeak"));
  return exports;
}

}  // namespace

NODE_API_MODULE(ddpm_native, init)

}  // namespace ddpm::binding
