#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/graph/precision.h"
#include "native/runtime/run_queue.h"

namespace ddpm::binding {

Napi::Function NativeDevice::define(Napi::Env env) {
  return DefineClass(
      env, "NativeDevice",
      {InstanceMethod<&NativeDevice::info>("info"), InstanceMethod<&NativeDevice::libraries>("libraries"),
       InstanceMethod<&NativeDevice::warnings>("warnings"), InstanceMethod<&NativeDevice::allocate>("allocate"),
       InstanceMethod<&NativeDevice::memoryInUse>("memoryInUse"),
       InstanceMethod<&NativeDevice::workspaceBytes>("workspaceBytes"),
       InstanceMethod<&NativeDevice::synchronize>("synchronize"), InstanceMethod<&NativeDevice::runAll>("runAll"),
       InstanceMethod<&NativeDevice::close>("close")});
}

NativeDevice::NativeDevice(const Napi::CallbackInfo& info)
    : ObjectWrap(info), device_(constructed<std::shared_ptr<Device>>(info, Environment::Kind::device)) {
  fix(info, "backend", Napi::String::New(info.Env(), device_->backend().name));
  fix(info, "timesAlgorithms", Napi::Boolean::New(info.Env(), device_->backend().gather != nullptr));
  fix(info, "index", Napi::Number::New(info.Env(), device_->index()));
}

Napi::Value NativeDevice::open(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    auto device = Device::open(toString(info[0], "backend"), toInt(info[1], "index"), toInt(info[2], "threads"));
    Environment& environment = Environment::of(info.Env());
    environment.addDevice(device);
    return construct(info.Env(), environment.deviceClass, device);
  });
}

std::shared_ptr<Device> NativeDevice::unwrap(const Napi::Value& value) {
  const NativeDevice* self = instance<NativeDevice>(value, Environment::Kind::device);
  if (!self) throw Failure::argumentOf("native", "device", "a NativeDevice", "another value");
  self->device_->checkOpen();
  return self->device_;
}

Napi::Value NativeDevice::info(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const DeviceInfo d = device_->info();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("name", std::string(d.name));
    object.Set("isa", std::string(d.isa));
    object.Set("threads", double(d.threads));
    object.Set("memoryBytes", double(d.memoryBytes));
    object.Set("freeBytes", double(d.freeBytes));
    object.Set("bf16", Napi::String::New(info.Env(), d.bf16));
    Napi::Array precisions = Napi::Array::New(info.Env());
    for (DType dtype : kPrecisions) {
      if (device_->backend().precisions & precisionBit(dtype))
        precisions.Set(precisions.Length(), precisionName(dtype));
    }
    object.Set("precisions", precisions);
    Napi::Object lacks = Napi::Object::New(info.Env());
    for (DType dtype : kPrecisions) {
      const char* needs = device_->backend().lacks ? device_->backend().lacks(dtype) : nullptr;
      if (needs) lacks.Set(precisionName(dtype), needs);
    }
    object.Set("lacks", lacks);
    Napi::Array formats = Napi::Array::New(info.Env());
    for (const auto& [dtype, name] : kWeightFormats) {
      if (device_->backend().weightFormats & precisionBit(dtype)) formats.Set(formats.Length(), name);
    }
    object.Set("weightFormats", formats);
    object.Set("roundsOperands", device_->backend().roundsOperands != 0);
    return object;
  });
}

Napi::Value NativeDevice::libraries(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] { return Napi::String::New(info.Env(), device_->libraries()); });
}

Napi::Value NativeDevice::warnings(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    Napi::Array array = Napi::Array::New(info.Env());
    for (const std::string& warning : device_->warnings())
      array.Set(array.Length(), Napi::String::New(info.Env(), warning));
    return array;
  });
}

Napi::Value NativeDevice::allocate(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const double elements = toNumber(info[0], "elements");
    const bool integer = elements >= 1 && elements <= INT32_MAX && elements == double(int64_t(elements));
    return NativeBuffer::create(info.Env(), Buffer::allocate(device_, integer ? int64_t(elements) : 0));
  });
}

Napi::Value NativeDevice::memoryInUse(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(device_->memoryInUse()));
}

Napi::Value NativeDevice::workspaceBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(device_->workspaceBytes()));
}

Napi::Value NativeDevice::synchronize(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return Environment::of(info.Env()).promise(info.Env(), *device_, [device = device_] {
      Error error;
      if (!device->backend().synchronize(device->handle(), &error)) throw toFailure(error);
    });
  });
}

Napi::Value NativeDevice::runAll(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Napi::Array list = toArray(info[0], "runs");
    std::vector<RunQueue::Run> runs;
    for (uint32_t i = 0; i < list.Length(); ++i) {
      const Napi::Object run = toObject(list.Get(i), "runs");
      const auto program = NativeProgram::unwrap(run.Get("program"));
      if (program->device != device_)
        throw Failure::argumentOf("runAll", "program", "a program of this device", "another's");
      runs.push_back({program, toBindings(run.Get("bindings"), *program)});
    }
    const auto queue = std::make_shared<RunQueue>(device_, std::move(runs));
    Napi::Object result = Napi::Object::New(info.Env());
    // Not what the queue holds, until the garbage collector comes.
    result.Set("stop", Napi::Function::New(info.Env(), [weak = std::weak_ptr(queue)](const Napi::CallbackInfo&) {
                 if (const auto running = weak.lock()) running->stop();
               }));
    result.Set("done",
               Environment::of(info.Env()).promiseOfPieces(info.Env(), *device_, [queue] { return queue->next(); }));
    return result;
  });
}

Napi::Value NativeDevice::close(const Napi::CallbackInfo& info) {
  device_->close();
  return info.Env().Undefined();
}

}  // namespace ddpm::binding
