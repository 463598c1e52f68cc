#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/graph/autodiff.h"
#include "native/graph/precision.h"

namespace ddpm::binding {
namespace {

Napi::Value fromIds(Napi::Env env, const std::vector<ValueId>& ids) {
  Napi::Array array = Napi::Array::New(env, ids.size());
  for (uint32_t i = 0; i < ids.size(); ++i) array.Set(i, double(ids[i]));
  return array;
}

int64_t toPackedBytes(const Napi::Value& value) {
  const double bytes = toNumber(value, "packedBytes");
  if (bytes >= 0 && bytes <= 9007199254740991.0) return int64_t(bytes);
  throw Failure::argumentOf("compile", "packedBytes", "bytes", std::to_string(bytes));
}

PlanOptions toPlanOptions(const Napi::Value& value) {
  PlanOptions options;
  if (!isGiven(value)) return options;
  const Napi::Object object = toObject(value, "options");
  const Napi::Value deterministic = object.Get("deterministic"), forceAlgo = object.Get("forceAlgo");
  if (isGiven(deterministic)) options.deterministic = deterministic.ToBoolean();
  if (isGiven(forceAlgo)) options.forceAlgo = toInt(forceAlgo, "forceAlgo");
  const Napi::Value packedBytes = object.Get("packedBytes");
  if (isGiven(packedBytes)) options.packedBytes = toPackedBytes(packedBytes);
  return options;
}

// Whether the program gets its memory at once.
bool toReserve(const Napi::Value& options) {
  if (!isGiven(options)) return true;
  const Napi::Value value = toObject(options, "options").Get("reserve");
  return !isGiven(value) || value.ToBoolean();
}

DType toPrecision(const Napi::Value& options) {
  const Napi::Value value = isGiven(options) ? toObject(options, "options").Get("precision") : options;
  if (!isGiven(value)) return DType::f32;
  const std::string name = toString(value, "precision");
  for (DType precision : kPrecisions) {
    if (name == precisionName(precision)) return precision;
  }
  throw Failure::argumentOf("compile", "precision", "'fp32', 'fp16' or 'bf16'", Failure::quoted(name));
}

}  // namespace

Napi::Function NativeGraph::define(Napi::Env env) {
  return DefineClass(
      env, "NativeGraph",
      {InstanceMethod<&NativeGraph::add>("add"), InstanceMethod<&NativeGraph::dims>("dims"),
       InstanceMethod<&NativeGraph::region>("region"), InstanceMethod<&NativeGraph::backward>("backward"),
       InstanceMethod<&NativeGraph::compile>("compile"), InstanceMethod<&NativeGraph::compileBeside>("compileBeside")});
}

NativeGraph::NativeGraph(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  constructed<Graph>(info, Environment::Kind::graph);
}

Napi::Value NativeGraph::create(const Napi::CallbackInfo& info) {
  return construct(info.Env(), Environment::of(info.Env()).graphClass, Graph());
}

Napi::Value NativeGraph::add(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return fromIds(info.Env(),
                   graph_.add(toString(info[0], "op"), toValueIds(info[1], "inputs"), toAttributes(info[2])));
  });
}

Napi::Value NativeGraph::dims(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const ValueId v = toInt(info[0], "value");
    graph_.check(v, "dims");
    const Dims& d = graph_.value(v).dims;
    return fromIds(info.Env(), {d[0], d[1], d[2], d[3]});
  });
}

Napi::Value NativeGraph::region(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    if (info[0].ToBoolean())
      graph_.openRegion();
    else
      graph_.closeRegion();
    return info.Env().Undefined();
  });
}

Napi::Value NativeGraph::backward(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return fromIds(info.Env(), ddpm::backward(graph_, toInt(info[0], "loss"), toValueIds(info[1], "wrt")));
  });
}

NativeGraph::Wanted NativeGraph::wanted(const Napi::CallbackInfo& info) const {
  Wanted w;
  const Napi::Object named = toObject(info[1], "outputs");
  const Napi::Array names = named.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString();
    w.outputs[name] = toInt(named.Get(name), name.c_str());
  }
  const PlanOptions options = toPlanOptions(info[2]);
  const DType precision = toPrecision(info[2]);
  w.reserves = toReserve(info[2]);
  // Last, since getters of the others may close it.
  w.device = NativeDevice::unwrap(info[0]);
  w.target = {&w.device->backend(), w.device->handle(), options, precision};
  return w;
}

Napi::Value NativeGraph::compile(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Wanted w = wanted(info);
    const auto program = std::make_shared<Program>(w.device, ddpm::compile(graph_, w.outputs, w.target));
    if (w.reserves) program->reserve();
    return NativeProgram::create(info.Env(), program);
  });
}

Napi::Value NativeGraph::compileBeside(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto program = std::make_shared<std::shared_ptr<Program>>();
    const Wanted w = wanted(info);
    return Environment::of(info.Env())
        .promiseBeside(
            info.Env(), *w.device,
            [program, w, graph = std::make_shared<const Graph>(graph_)] {
              Compiled compiled = ddpm::compile(*graph, w.outputs, w.target, &w.device->closing());
              w.device->checkOpen();
              *program = std::make_shared<Program>(w.device, std::move(compiled));
              if (w.reserves) (*program)->reserve();
            },
            [program](Napi::Env env) { return NativeProgram::create(env, *program); });
  });
}

}  // namespace ddpm::binding
