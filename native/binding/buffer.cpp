#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/runtime/address_space.h"

namespace ddpm::binding {
namespace {

struct Numbers {
  const char* begin;
  size_t length;
};

Numbers numbersOf(const Napi::Value& value) {
  const bool typed = value.IsTypedArray();
  const auto type = typed ? value.As<Napi::TypedArray>().TypedArrayType() : napi_uint8_array;
  if (type == napi_float32_array) {
    const auto array = value.As<Napi::Float32Array>();
    return {reinterpret_cast<const char*>(array.Data()), array.ElementLength()};
  }
  if (type == napi_int32_array) {
    const auto array = value.As<Napi::Int32Array>();
    return {reinterpret_cast<const char*>(array.Data()), array.ElementLength()};
  }
  throw Failure::argumentOf("write", "data", "a Float32Array or Int32Array", "another value");
}

}  // namespace

Napi::Function NativeBuffer::define(Napi::Env env) {
  return DefineClass(
      env, "NativeBuffer",
      {InstanceMethod<&NativeBuffer::write>("write"), InstanceMethod<&NativeBuffer::read>("read"),
       InstanceMethod<&NativeBuffer::version>("version"), InstanceMethod<&NativeBuffer::checksum>("checksum"),
       InstanceMethod<&NativeBuffer::copyFrom>("copyFrom"), InstanceMethod<&NativeBuffer::add>("add"),
       InstanceMethod<&NativeBuffer::clear>("clear"), InstanceMethod<&NativeBuffer::load>("load"),
       InstanceMethod<&NativeBuffer::draw>("draw"), InstanceMethod<&NativeBuffer::fill>("fill"),
       InstanceMethod<&NativeBuffer::readAt>("readAt"), InstanceMethod<&NativeBuffer::release>("release")});
}

NativeBuffer::NativeBuffer(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      buffer_(constructed<std::shared_ptr<Buffer>>(info, Environment::Kind::buffer)),
      elements_(buffer_->elements) {
  fix(info, "elements", Napi::Number::New(info.Env(), double(elements_)));
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), elements_ * 4);
}

Napi::Value NativeBuffer::create(Napi::Env env, std::shared_ptr<Buffer> buffer) {
  return construct(env, Environment::of(env).bufferClass, buffer);
}

std::shared_ptr<Buffer> NativeBuffer::unwrap(const Napi::Value& value, const char* argument) {
  const NativeBuffer* self = instance<NativeBuffer>(value, Environment::Kind::buffer);
  if (!self) throw Failure::argumentOf("native", argument, "a NativeBuffer", "another value");
  return self->buffer();
}

const std::shared_ptr<Buffer>& NativeBuffer::buffer() const {
  if (!buffer_) throw Failure("closed", "the buffer was released");
  buffer_->device->checkOpen();
  return buffer_;
}

// A forgotten buffer is freed by the garbage collector.
void NativeBuffer::Finalize(Napi::BasicEnv env) { drop(env); }

void NativeBuffer::drop(Napi::BasicEnv env) {
  if (!buffer_) return;
  buffer_.reset();
  Napi::MemoryManagement::AdjustExternalMemory(env, -elements_ * 4);
}

Napi::Value NativeBuffer::write(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    const auto [begin, length] = numbersOf(info[0]);
    const double offset = isGiven(info[1]) ? toNumber(info[1], "offset") : 0;
    target->checkRange("write", offset, double(length));
    if (length == 0) return info.Env().Undefined();
    leaveRoom(uint64_t(length) * 4);
    auto copy = std::make_shared<std::vector<char>>(begin, begin + length * 4);
    target->device->submit(
        [target, copy, offset, length = length] { target->copyIn(copy->data(), int64_t(offset), int64_t(length)); });
    return info.Env().Undefined();
  });
}

// The device's thread writes straight into the result, which nobody else sees before the promise resolves.
Napi::Value NativeBuffer::read(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto source = buffer();
    const double offset = isGiven(info[0]) ? toNumber(info[0], "offset") : 0;
    const double length = isGiven(info[1]) ? toNumber(info[1], "length") : double(elements_) - offset;
    source->checkRange("read", offset, length);
    Napi::Float32Array result = newFloats(info.Env(), length);
    float* data = result.Data();
    const auto work = [source, data, offset, length] {
      if (length > 0) source->copyOut(data, int64_t(offset), int64_t(length));
    };
    return Environment::of(info.Env()).promise(info.Env(), *source->device, work, result);
  });
}

Napi::Value NativeBuffer::version(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto source = buffer();
    const auto version = std::make_shared<uint64_t>();
    const auto work = [source, version] { *version = source->version; };
    const auto make = [version](Napi::Env env) { return Napi::Number::New(env, double(*version)); };
    return Environment::of(info.Env()).promise(info.Env(), *source->device, work, make);
  });
}

// As many of its bits as a number has.
Napi::Value NativeBuffer::checksum(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const auto source = buffer();
    const auto sum = std::make_shared<uint64_t>();
    const auto work = [source, sum] { *sum = source->checksum(); };
    const auto make = [sum](Napi::Env env) { return Napi::Number::New(env, double(*sum >> 11)); };
    return Environment::of(info.Env()).promise(info.Env(), *source->device, work, make);
  });
}

Napi::Value NativeBuffer::copyFrom(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    const auto source = unwrap(info[0], "source");
    const double from = isGiven(info[1]) ? toNumber(info[1], "sourceOffset") : 0;
    const double to = isGiven(info[2]) ? toNumber(info[2], "offset") : 0;
    const double length = isGiven(info[3]) ? toNumber(info[3], "length") : double(source->elements) - from;
    source->checkRange("copyFrom", from, length);
    target->checkRange("copyFrom", to, length);
    if (source->device != target->device) {
      throw Failure::argumentOf("copyFrom", "source", "a buffer of the same device", "another device's");
    }
    target->device->submit([source, target, from, to, length] {
      if (length > 0) target->copyFrom(*source, int64_t(from), int64_t(to), int64_t(length));
    });
    return info.Env().Undefined();
  });
}

Napi::Value NativeBuffer::add(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    const auto source = unwrap(info[0], "source");
    if (source->device != target->device) {
      throw Failure::argumentOf("add", "source", "a buffer of the same device", "another device's");
    }
    if (source->elements != target->elements) {
      throw Failure::argumentOf("add", "source", std::to_string(target->elements) + " elements",
                                std::to_string(source->elements));
    }
    target->device->submit([source, target] { target->add(*source); });
    return info.Env().Undefined();
  });
}

Napi::Value NativeBuffer::clear(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const auto target = buffer();
    target->device->submit([target] { target->clear(); });
    return info.Env().Undefined();
  });
}

Napi::Value NativeBuffer::release(const Napi::CallbackInfo& info) {
  drop(info.Env());
  return info.Env().Undefined();
}

}  // namespace ddpm::binding
