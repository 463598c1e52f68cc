#include "native/binding/convert.h"
#include "native/binding/objects.h"
#include "native/runtime/bank_sum.h"
#include "native/runtime/device_sum.h"

namespace ddpm::binding {
namespace {

// Bytes that the world's thread works on, and that JavaScript gets a copy of when it is done.
using Bytes = std::shared_ptr<std::vector<uint8_t>>;

Bytes toBytes(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw Failure::argumentOf("native", "bytes", "a Uint8Array", "another value");
  const auto array = value.As<Napi::Uint8Array>();
  return std::make_shared<std::vector<uint8_t>>(array.Data(), array.Data() + array.ByteLength());
}

double toSeconds(const Napi::Value& value) {
  const double seconds = toNumber(value, "seconds");
  if (!(seconds > 0)) throw Failure::argumentOf("native", "seconds", "above 0", std::to_string(seconds));
  return seconds;
}

std::function<Napi::Value(Napi::Env)> arrayOf(const Bytes& bytes) {
  return [bytes](Napi::Env env) { return Napi::Buffer<uint8_t>::Copy(env, bytes->data(), bytes->size()); };
}

Napi::Value own(Napi::Env env, const std::shared_ptr<World>& world) {
  Environment& environment = Environment::of(env);
  environment.ownWorld(world);
  return construct(env, environment.worldClass, world);
}

}  // namespace

Napi::Function NativeWorld::define(Napi::Env env) {
  return DefineClass(
      env, "NativeWorld",
      {InstanceMethod<&NativeWorld::barrier>("barrier"), InstanceMethod<&NativeWorld::broadcast>("broadcast"),
       InstanceMethod<&NativeWorld::gather>("gather"), InstanceMethod<&NativeWorld::sumBanks>("sumBanks"),
       InstanceMethod<&NativeWorld::ownParts>("ownParts"), InstanceMethod<&NativeWorld::gatherParts>("gatherParts"),
       InstanceMethod<&NativeWorld::joinDevices>("joinDevices"), InstanceMethod<&NativeWorld::setTimeout>("setTimeout"),
       InstanceMethod<&NativeWorld::bytesSent>("bytesSent"), InstanceMethod<&NativeWorld::leave>("leave")});
}

NativeWorld::NativeWorld(const Napi::CallbackInfo& info)
    : ObjectWrap(info), world_(constructed<std::shared_ptr<World>>(info, Environment::Kind::world)) {
  fix(info, "rank", Napi::Number::New(info.Env(), world_->rank()));
  fix(info, "size", Napi::Number::New(info.Env(), world_->size()));
  fix(info, "library", Napi::String::New(info.Env(), world_->library()));
}

Napi::Value NativeWorld::join(const Napi::CallbackInfo& info) {
  return guard(info.Env(),
               [&] { return own(info.Env(), HostWorld::join(toString(info[0], "library"), toSeconds(info[1]))); });
}

Napi::Value NativeWorld::makeId(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const std::string id = DeviceWorld::makeId(NativeDevice::unwrap(info[0]));
    return Napi::Buffer<uint8_t>::Copy(info.Env(), reinterpret_cast<const uint8_t*>(id.data()), id.size());
  });
}

Napi::Value NativeWorld::joinById(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Bytes id = toBytes(info[1]);
    const int32_t rank = toInt(info[2], "rank"), size = toInt(info[3], "size");
    const double seconds = toSeconds(info[4]);
    return own(info.Env(),
               DeviceWorld::join(NativeDevice::unwrap(info[0]), {id->begin(), id->end()}, rank, size, seconds));
  });
}

Napi::Value NativeWorld::joinDevices(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const std::shared_ptr<Device> device = NativeDevice::unwrap(info[0]);
    const double seconds = toSeconds(info[1]);
    std::string id(Links::kIdBytes, '\0');
    if (world_->rank() == 0) id = DeviceWorld::makeId(device);
    world_->call([&] { world_->broadcast(id.data(), id.size(), 0); });
    return own(info.Env(), DeviceWorld::join(device, id, world_->rank(), world_->size(), seconds));
  });
}

Napi::Value NativeWorld::barrier(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return Environment::of(info.Env()).promiseOfWorld(info.Env(), *world_, [world = world_] { world->barrier(); });
  });
}

Napi::Value NativeWorld::broadcast(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Bytes bytes = toBytes(info[0]);
    const int32_t root = toInt(info[1], "root");
    if (root < 0 || root >= world_->size())
      throw Failure::argumentOf("broadcast", "root", "a rank", std::to_string(root));
    const auto work = [world = world_, bytes, root] { world->broadcast(bytes->data(), bytes->size(), root); };
    return Environment::of(info.Env()).promiseOfWorld(info.Env(), *world_, work, arrayOf(bytes));
  });
}

Napi::Value NativeWorld::gather(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Bytes own = toBytes(info[0]);
    const size_t length = own->size();
    const auto all = std::make_shared<std::vector<uint8_t>>(length * size_t(world_->size()));
    std::copy(own->begin(), own->end(), all->begin() + ptrdiff_t(length) * world_->rank());
    const auto work = [world = world_, all, length] {
      std::vector<Part> parts;
      for (int32_t r = 0; r < world->size(); ++r) parts.push_back({length * size_t(r), length});
      world->gather(all->data(), parts.data());
    };
    return Environment::of(info.Env()).promiseOfWorld(info.Env(), *world_, work, arrayOf(all));
  });
}

Napi::Value NativeWorld::sumBanks(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const Napi::Array list = toArray(info[0], "banks");
    const int32_t share = toInt(info[1], "share");
    std::vector<std::shared_ptr<Buffer>> banks;
    for (uint32_t i = 0; i < list.Length(); ++i) banks.push_back(NativeBuffer::unwrap(list.Get(i), "banks"));
    if (share < 1) throw Failure::argumentOf("sumBanks", "share", "at least 1", std::to_string(share));
    if (banks.empty()) throw Failure::argumentOf("sumBanks", "banks", "at least one", "none");
    for (const auto& bank : banks) {
      if (bank->device != banks[0]->device || bank->elements != banks[0]->elements)
        throw Failure::argumentOf("sumBanks", "banks", "buffers of one device and size", "others");
    }
    const int64_t first = int64_t(world_->rank()) * share;
    const Summands summands = {banks, nodesOf(first, first + share), share, false};
    if (summands.nodes.size() != banks.size())
      throw Failure::argumentOf("sumBanks", "banks", std::to_string(summands.nodes.size()),
                                std::to_string(banks.size()));
    Device& device = *banks[0]->device;
    const auto work = [world = world_, summands] {
      if (const auto there = std::dynamic_pointer_cast<DeviceWorld>(world))
        ddpm::sumBanks(*there, summands);
      else
        ddpm::sumBanks(dynamic_cast<HostWorld&>(*world), summands);
    };
    return Environment::of(info.Env()).promise(info.Env(), device, work);
  });
}

Napi::Value NativeWorld::ownParts(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const int32_t count = toInt(info[0], "count");
    if (count < 1) throw Failure::argumentOf("ownParts", "count", "at least 1", std::to_string(count));
    const BankParts parts(count, world_->size());
    const Napi::Array ranges = Napi::Array::New(info.Env());
    for (int64_t piece = 0; piece < parts.pieces(); ++piece) {
      const Range own = parts.own(piece, world_->rank());
      if (own.length() == 0) continue;
      Napi::Object range = Napi::Object::New(info.Env());
      range.Set("begin", double(own.begin));
      range.Set("length", double(own.length()));
      ranges.Set(ranges.Length(), range);
    }
    return ranges;
  });
}

Napi::Value NativeWorld::gatherParts(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const std::shared_ptr<Buffer> bank = NativeBuffer::unwrap(info[0], "bank");
    const auto work = [world = world_, bank] {
      const int32_t count = int32_t(bank->elements);
      const Tensor x = {bank->data, 1, 1, 1, count, count, DType::f32};
      const RankGather op = {x, count, world->rank(), world->size()};
      if (const auto there = std::dynamic_pointer_cast<DeviceWorld>(world)) {
        enqueueGather(*there, *bank->device, op);
        Error error;
        if (!bank->device->backend().synchronize(bank->device->handle(), &error)) throw toFailure(error);
      } else {
        ddpm::gatherParts(dynamic_cast<HostWorld&>(*world), *bank->device, op);
      }
      ++bank->version;
    };
    return Environment::of(info.Env()).promise(info.Env(), *bank->device, work);
  });
}

Napi::Value NativeWorld::setTimeout(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    world_->setTimeout(toSeconds(info[0]));
    return info.Env().Undefined();
  });
}

Napi::Value NativeWorld::bytesSent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(world_->bytesSent()));
}

Napi::Value NativeWorld::leave(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    Environment::of(info.Env()).leaveWorld(!isGiven(info[0]) || info[0].ToBoolean());
    return info.Env().Undefined();
  });
}

}  // namespace ddpm::binding
