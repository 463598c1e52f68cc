#include "native/runtime/program.h"

#include "native/binding/convert.h"
#include "native/binding/objects.h"

namespace ddpm::binding {

Napi::Function NativeProgram::define(Napi::Env env) {
  return DefineClass(
      env, "NativeProgram",
      {InstanceMethod<&NativeProgram::memory>("memory"), InstanceMethod<&NativeProgram::reserve>("reserve"),
       InstanceMethod<&NativeProgram::run>("run"), InstanceMethod<&NativeProgram::describe>("describe"),
       InstanceMethod<&NativeProgram::launches>("launches"), InstanceMethod<&NativeProgram::steps>("steps"),
       InstanceMethod<&NativeProgram::release>("release")});
}

NativeProgram::NativeProgram(const Napi::CallbackInfo& info)
    : ObjectWrap(info), program_(constructed<std::shared_ptr<Program>>(info, Environment::Kind::program)) {}

Napi::Value NativeProgram::create(Napi::Env env, std::shared_ptr<Program> program) {
  return construct(env, Environment::of(env).programClass, program);
}

const std::shared_ptr<Program>& NativeProgram::unwrap(const Napi::Value& value) {
  const NativeProgram* self = instance<NativeProgram>(value, Environment::Kind::program);
  if (!self) throw Failure::argumentOf("native", "program", "a NativeProgram", "another value");
  return self->program();
}

const std::shared_ptr<Program>& NativeProgram::program() const {
  if (!program_) throw Failure("closed", "the program was released");
  program_->device->checkOpen();
  return program_;
}

Napi::Value NativeProgram::memory(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Compiled& c = program()->compiled();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("arena", double(c.arenaBytes));
    object.Set("packed", double(c.packedBytes));
    const uint64_t scratch = c.scratchBytes + c.sumBytes;
    object.Set("scratch", double(scratch));
    object.Set("total", double(c.arenaBytes + c.packedBytes + scratch));
    Napi::Object bound = Napi::Object::New(info.Env());
    for (const Storage& s : c.storages) {
      if (s.kind == Storage::external) bound.Set(s.name, double(s.bytes));
    }
    object.Set("bound", bound);
    return object;
  });
}

Napi::Value NativeProgram::reserve(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    program()->reserve();
    return info.Env().Undefined();
  });
}

Program::Bindings toBindings(const Napi::Value& value, const Program& program) {
  const Napi::Object named = toObject(value, "bindings");
  const Napi::Array names = named.GetPropertyNames();
  Program::Bindings bindings;
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString();
    bindings[name] = NativeBuffer::unwrap(named.Get(name), name.c_str());
  }
  program.checkBindings(bindings);
  return bindings;
}

Napi::Value NativeProgram::run(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto running = program();
    const auto bindings = std::make_shared<Program::Bindings>(toBindings(info[0], *running));
    return Environment::of(info.Env()).promise(info.Env(), *running->device, [running, bindings] {
      running->run(*bindings);
    });
  });
}

Napi::Value NativeProgram::describe(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] { return Napi::String::New(info.Env(), ddpm::describe(program()->compiled())); });
}

Napi::Value NativeProgram::launches(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Recordings::Counts counts = program()->launches();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("direct", counts.direct);
    object.Set("recorded", counts.recorded);
    object.Set("replayed", counts.replayed);
    return object;
  });
}

Napi::Value NativeProgram::release(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    if (program_) program_->retire();
    program_.reset();
    return info.Env().Undefined();
  });
}

}  // namespace ddpm::binding
