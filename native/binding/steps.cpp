// A program's steps as data; see NativeProgram.steps in lib/native.ts.
#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/runtime/step_needs.h"

namespace ddpm::binding {
namespace {

const char* nameOf(Access access) {
  return access == Access::read ? "read" : access == Access::write ? "write" : "update";
}

Napi::Array arrayOf(Napi::Env env, std::initializer_list<int32_t> numbers) {
  Napi::Array array = Napi::Array::New(env, numbers.size());
  uint32_t i = 0;
  for (int32_t number : numbers) array.Set(i++, number);
  return array;
}

Napi::Object tensorOf(Napi::Env env, const Tensor& t, Access access) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("dims", arrayOf(env, {t.n, t.h, t.w, t.c}));
  object.Set("ld", t.ld);
  object.Set("dtype", ddpm::nameOf(t.dtype));
  object.Set("access", nameOf(access));
  const Address address = decode(t.data);
  object.Set("storage", address.storage);
  object.Set("offset", double(address.offset));
  return object;
}

Napi::Array launchesOf(Napi::Env env, const std::vector<Launch>& launches) {
  Napi::Array array = Napi::Array::New(env, launches.size());
  for (uint32_t i = 0; i < launches.size(); ++i) {
    const Launch& launch = launches[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("kernel", std::string(launch.kernel));
    object.Set("grid", arrayOf(env, {launch.grid[0], launch.grid[1], launch.grid[2]}));
    object.Set("block", arrayOf(env, {launch.block[0], launch.block[1], launch.block[2]}));
    object.Set("sharedBytes", double(launch.sharedBytes));
    array.Set(i, object);
  }
  return array;
}

Napi::Object stepOf(Napi::Env env, const Program& program, const Step& step, bool prologue) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("op", opName(step));
  object.Set("prologue", prologue);
  Napi::Object tensors = Napi::Object::New(env);
  Step copy = step;
  std::visit(
      [&](auto& op) {
        if constexpr (requires { op.algo; }) object.Set("algo", ddpm::nameOf(op.algo));
        if constexpr (requires { op.splits; }) object.Set("splits", op.splits);
        visitFields(op, [&](const char* name, auto& field, Access access) {
          if constexpr (std::is_same_v<std::decay_t<decltype(field)>, Tensor>) {
            if (field.data) tensors.Set(name, tensorOf(env, field, access));
          }
        });
      },
      copy);
  object.Set("tensors", tensors);
  const StepNeeds needs = needsOf(*program.device, step);
  object.Set("scratchBytes", double(needs.scratchBytes));
  if (needs.known) object.Set("launches", launchesOf(env, needs.launches));
  return object;
}

}  // namespace

Napi::Value NativeProgram::steps(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto running = program();
    const Steps& steps = running->compiled().steps;
    Napi::Array array = Napi::Array::New(info.Env());
    const auto append = [&](const std::vector<Step>& some, bool isPrologue) {
      for (const Step& step : some) array.Set(array.Length(), stepOf(info.Env(), *running, step, isPrologue));
    };
    for (const Prologue& prologue : steps.prologues) append(prologue.steps, true);
    append(steps.steps, false);
    return array;
  });
}

}  // namespace ddpm::binding
