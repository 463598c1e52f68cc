#include "native/binding/convert.h"

#include "native/binding/environment.h"
#include "native/runtime/address_space.h"

namespace ddpm::binding {
namespace {

const char* kindOf(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return "a boolean";
    case napi_number:
      return "a number";
    case napi_string:
      return "a string";
    case napi_function:
      return "a function";
    case napi_object:
      return value.IsArray() ? "an array" : "an object";
    default:
      return "another type";
  }
}

void require(bool ok, const Napi::Value& value, const char* argument, const char* expected) {
  if (!ok) throw Failure::argumentOf("native", argument, expected, kindOf(value));
}

std::vector<double> toNumbers(const Napi::Value& value, const char* argument) {
  require(value.IsArray(), value, argument, "an array");
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<double> numbers;
  for (uint32_t i = 0; i < array.Length(); ++i) numbers.push_back(toNumber(array.Get(i), argument));
  return numbers;
}

}  // namespace

Napi::Error toError(Napi::Env env, const Failure& failure) {
  const Napi::Error error = Napi::Error::New(env, failure.message);
  const auto set = [&](const char* name, const std::string& text) {
    if (!text.empty()) error.Value().Set(name, Napi::String::New(env, text));
  };
  set("code", failure.code);
  set("argument", failure.argument);
  set("expected", failure.expected);
  set("received", failure.received);
  return error;
}

Napi::Error outOfMemory(Napi::Env env) {
  const Napi::Error error = Napi::Error::New(env, "out of host memory");
  error.Value().Set("code", "out-of-memory");
  return error;
}

double toNumber(const Napi::Value& value, const char* argument) {
  require(value.IsNumber(), value, argument, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int32_t toInt(const Napi::Value& value, const char* argument) {
  const double v = toNumber(value, argument);
  if (!(v >= INT32_MIN && v <= INT32_MAX) || v != double(int32_t(v))) {
    throw Failure::argumentOf("native", argument, "a 32-bit integer", std::to_string(v));
  }
  return int32_t(v);
}

Napi::Float32Array newFloats(Napi::Env env, double n) {
  leaveRoom(uint64_t(n) * 4);
  try {
    const Napi::Object array = Environment::of(env).floatArray.New({Napi::Number::New(env, n)});
    return array.As<Napi::Float32Array>();
  } catch (const Napi::Error&) {  // a RangeError
    throw Failure("out-of-memory", "out of host memory: an array of " + std::to_string(int64_t(n) * 4) + " bytes");
  }
}

void fix(const Napi::CallbackInfo& info, const char* name, const Napi::Value& value) {
  info.This().As<Napi::Object>().DefineProperty(Napi::PropertyDescriptor::Value(name, value, napi_enumerable));
}

std::string toString(const Napi::Value& value, const char* argument) {
  require(value.IsString(), value, argument, "a string");
  return value.As<Napi::String>().Utf8Value();
}

Napi::Object toObject(const Napi::Value& value, const char* argument) {
  require(value.IsObject() && !value.IsArray(), value, argument, "an object");
  return value.As<Napi::Object>();
}

Napi::Array toArray(const Napi::Value& value, const char* argument) {
  require(value.IsArray(), value, argument, "an array");
  return value.As<Napi::Array>();
}

std::vector<ValueId> toValueIds(const Napi::Value& value, const char* argument) {
  std::vector<ValueId> ids;
  const Napi::Array array = toArray(value, argument);
  for (uint32_t i = 0; i < array.Length(); ++i) ids.push_back(toInt(array.Get(i), argument));
  return ids;
}

Attributes toAttributes(const Napi::Value& value) {
  Attributes attributes;
  if (!isGiven(value)) return attributes;
  const Napi::Object object = toObject(value, "attributes");
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString();
    const Napi::Value v = object.Get(name);
    if (v.IsNumber()) {
      attributes.set(name, v.As<Napi::Number>().DoubleValue());
    } else if (v.IsBoolean()) {
      attributes.set(name, v.As<Napi::Boolean>().Value());
    } else if (v.IsString()) {
      attributes.set(name, v.As<Napi::String>().Utf8Value());
    } else if (v.IsArray()) {
      attributes.set(name, toNumbers(v, name.c_str()));
    } else {
      require(v.IsUndefined(), v, name.c_str(), "a number, boolean, string or array");
    }
  }
  return attributes;
}

}  // namespace ddpm::binding
