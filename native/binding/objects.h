// The classes that JavaScript sees; lib/native.ts documents them. They copy JavaScript values to plain ones, call
// native/runtime and native/graph, and catch: nothing else. Their methods refuse receivers of another class by V8's own
// signatures; accessors would not, so that what never changes is a property of the object.
#pragma once
#include <napi.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "native/binding/environment.h"
#include "native/graph/compile.h"
#include "native/graph/graph.h"
#include "native/runtime/buffer.h"
#include "native/runtime/program.h"
#include "native/runtime/world.h"

namespace ddpm::binding {

class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value open(const Napi::CallbackInfo& info);  // openDevice(backend, index, threads)
  static std::shared_ptr<Device> unwrap(const Napi::Value& value);

  explicit NativeDevice(const Napi::CallbackInfo& info);

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value libraries(const Napi::CallbackInfo& info);
  Napi::Value warnings(const Napi::CallbackInfo& info);
  Napi::Value allocate(const Napi::CallbackInfo& info);
  Napi::Value memoryInUse(const Napi::CallbackInfo& info);
  Napi::Value workspaceBytes(const Napi::CallbackInfo& info);
  Napi::Value synchronize(const Napi::CallbackInfo& info);
  Napi::Value runAll(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<Device> device_;
};

class NativeBuffer : public Napi::ObjectWrap<NativeBuffer> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(Napi::Env env, std::shared_ptr<Buffer> buffer);
  // Throws invalid-argument, or closed after release().
  static std::shared_ptr<Buffer> unwrap(const Napi::Value& value, const char* argument);

  explicit NativeBuffer(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

 private:
  const std::shared_ptr<Buffer>& buffer() const;
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value version(const Napi::CallbackInfo& info);
  Napi::Value copyFrom(const Napi::CallbackInfo& info);
  Napi::Value add(const Napi::CallbackInfo& info);
  Napi::Value clear(const Napi::CallbackInfo& info);
  Napi::Value checksum(const Napi::CallbackInfo& info);
  Napi::Value load(const Napi::CallbackInfo& info);
  Napi::Value draw(const Napi::CallbackInfo& info);
  Napi::Value fill(const Napi::CallbackInfo& info);
  Napi::Value readAt(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  void drop(Napi::BasicEnv env);

  std::shared_ptr<Buffer> buffer_;  // null once released
  int64_t elements_ = 0;
};

class NativeGraph : public Napi::ObjectWrap<NativeGraph> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(const Napi::CallbackInfo& info);

  explicit NativeGraph(const Napi::CallbackInfo& info);

 private:
  Napi::Value add(const Napi::CallbackInfo& info);
  Napi::Value dims(const Napi::CallbackInfo& info);
  Napi::Value region(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);
  Napi::Value compile(const Napi::CallbackInfo& info);
  Napi::Value compileBeside(const Napi::CallbackInfo& info);

  // What a program is to be compiled of and for; the arguments of both.
  struct Wanted {
    std::map<std::string, ValueId> outputs;
    Target target;
    std::shared_ptr<Device> device;
    bool reserves = true;  // the program gets its memory at once
  };
  Wanted wanted(const Napi::CallbackInfo& info) const;

  Graph graph_;
};

class NativeProgram : public Napi::ObjectWrap<NativeProgram> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(Napi::Env env, std::shared_ptr<Program> program);
  // Throws invalid-argument, or closed after release().
  static const std::shared_ptr<Program>& unwrap(const Napi::Value& value);

  explicit NativeProgram(const Napi::CallbackInfo& info);

 private:
  const std::shared_ptr<Program>& program() const;
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value reserve(const Napi::CallbackInfo& info);
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value describe(const Napi::CallbackInfo& info);
  Napi::Value launches(const Napi::CallbackInfo& info);
  Napi::Value steps(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);

  std::shared_ptr<Program> program_;  // null once released
};

class NativeWorld : public Napi::ObjectWrap<NativeWorld> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value join(const Napi::CallbackInfo& info);      // joinWorld(library)
  static Napi::Value joinById(const Napi::CallbackInfo& info);  // joinDevices(device, id, rank, size, seconds)
  static Napi::Value makeId(const Napi::CallbackInfo& info);    // worldId(device)

  explicit NativeWorld(const Napi::CallbackInfo& info);

 private:
  Napi::Value barrier(const Napi::CallbackInfo& info);
  Napi::Value broadcast(const Napi::CallbackInfo& info);
  Napi::Value gather(const Napi::CallbackInfo& info);
  Napi::Value sumBanks(const Napi::CallbackInfo& info);
  Napi::Value ownParts(const Napi::CallbackInfo& info);
  Napi::Value gatherParts(const Napi::CallbackInfo& info);
  Napi::Value joinDevices(const Napi::CallbackInfo& info);
  Napi::Value setTimeout(const Napi::CallbackInfo& info);
  Napi::Value bytesSent(const Napi::CallbackInfo& info);
  Napi::Value leave(const Napi::CallbackInfo& info);

  std::shared_ptr<World> world_;
};

// Buffers by name, checked to be what the program needs.
Program::Bindings toBindings(const Napi::Value& value, const Program& program);

// An instance of one of the classes around a C++ object, which its constructor takes from the environment: JavaScript,
// which has the constructors too, cannot hand it one.
template <class T>
Napi::Value construct(Napi::Env env, const Napi::FunctionReference& constructor, const T& object) {
  Environment& environment = Environment::of(env);
  struct Offer {
    Environment& environment;
    ~Offer() { environment.constructing = nullptr; }
  } offer{environment};
  environment.constructing = &object;
  return constructor.New({});
}
// In the constructor: what was handed over, and the object's tag.
template <class T>
const T& constructed(const Napi::CallbackInfo& info, Environment::Kind kind) {
  Environment& environment = Environment::of(info.Env());
  const void* object = std::exchange(environment.constructing, nullptr);
  if (!object) throw Napi::TypeError::New(info.Env(), "Illegal constructor");
  const napi_type_tag tag = environment.tagOf(kind);
  info.This().As<Napi::Object>().TypeTag(&tag);
  return *static_cast<const T*>(object);
}

// The C++ object of a value that should be an instance of a class; null where it is not.
template <class Class>
Class* instance(const Napi::Value& value, Environment::Kind kind) {
  if (!value.IsObject()) return nullptr;
  const Napi::Object object = value.As<Napi::Object>();
  const napi_type_tag tag = Environment::of(value.Env()).tagOf(kind);
  return object.CheckTypeTag(&tag) ? Class::Unwrap(object) : nullptr;
}

}  // namespace ddpm::binding
