// JavaScript values to plain ones and back, and C++ errors to JavaScript errors.
#pragma once
#include <napi.h>

#include <string>
#include <vector>

#include "native/graph/attributes.h"
#include "native/graph/graph.h"

namespace ddpm::binding {

// An Error with the fields of the failure: code, argument, expected, received.
Napi::Error toError(Napi::Env env, const Failure& failure);
Napi::Error outOfMemory(Napi::Env env);  // asks for no memory itself

// Each throws invalid-argument with the argument's name.
double toNumber(const Napi::Value& value, const char* argument);
int32_t toInt(const Napi::Value& value, const char* argument);
std::string toString(const Napi::Value& value, const char* argument);
Napi::Object toObject(const Napi::Value& value, const char* argument);
Napi::Array toArray(const Napi::Value& value, const char* argument);
std::vector<ValueId> toValueIds(const Napi::Value& value, const char* argument);
Attributes toAttributes(const Napi::Value& value);

// n numbers, zero. Unlike Napi::Float32Array::New, which ends the process, it throws out-of-memory.
Napi::Float32Array newFloats(Napi::Env env, double n);

// A property that JavaScript can't change.
void fix(const Napi::CallbackInfo& info, const char* name, const Napi::Value& value);

inline bool isGiven(const Napi::Value& value) { return !value.IsEmpty() && !value.IsUndefined() && !value.IsNull(); }

// Runs the body of a method; what it throws becomes a JavaScript exception.
template <class Body>
auto guard(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Failure& failure) {
    throw toError(env, failure);
  } catch (const std::bad_alloc&) {
    throw outOfMemory(env);
  } catch (const std::exception& e) {
    throw toError(env, Failure("internal", e.what()));
  }
}

}  // namespace ddpm::binding
