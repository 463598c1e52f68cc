#include "native/runtime/recordings.h"

#include <algorithm>

namespace ddpm {

Recordings::Recordings(std::shared_ptr<Device> device) : device_(std::move(device)) {}

// A device that is closed meanwhile frees what it has recorded itself.
Recordings::~Recordings() {
  std::vector<Recording*> recordings;
  for (const Entry& entry : entries_)
    if (entry.recording) recordings.push_back(entry.recording);
  if (recordings.empty()) return;
  Device& device = *device_;
  device.submit([&backend = device.backend(), handle = device.handle(), recordings] {
    for (Recording* recording : recordings) backend.releaseRecording(handle, recording);
  });
}

void Recordings::run(const Key& key, const std::function<void()>& issue) {
  const Backend& backend = device_->backend();
  if (!backend.beginRecording || !device_->debug().records || refused_) {
    issue();
    ++direct_;
    return;
  }
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  if (found == entries_.end()) {
    issue();
    ++direct_;
    entries_.push_front({key});
    if (entries_.size() > kCapacity) {
      if (Recording* last = entries_.back().recording) backend.releaseRecording(device_->handle(), last);
      entries_.pop_back();
    }
    return;
  }
  entries_.splice(entries_.begin(), entries_, found);
  Entry& entry = entries_.front();
  if (!entry.recording) {
    entry.recording = record(issue);
    if (!entry.recording) {  // nothing was executed
      issue();
      ++direct_;
      forgetAll();
      refused_ = true;
      device_->warn("a program is issued op by op in every run, as it cannot be recorded: " + whyNot_);
      return;
    }
    ++recorded_;
  }
  Error error;
  if (!backend.replay(device_->handle(), entry.recording, &error)) throw toFailure(error);
  ++replayed_;
}

// A device that is lost or closed does not compute op by op either.
Recording* Recordings::record(const std::function<void()>& issue) {
  const Backend& backend = device_->backend();
  DeviceHandle* handle = device_->handle();
  const auto refuse = [this](const Failure& failure) {
    if (failure.code == "device-unavailable" || failure.code == "closed") throw failure;
    whyNot_ = failure.message;
    return nullptr;
  };
  Error error;
  if (!backend.beginRecording(handle, &error)) return refuse(toFailure(error));
  const auto abandon = [&] {
    Error ignored;  // of what cannot be finished; the first error counts
    if (Recording* part = backend.endRecording(handle, &ignored)) backend.releaseRecording(handle, part);
  };
  try {
    issue();
  } catch (const Failure& failure) {
    abandon();
    return refuse(failure);
  } catch (...) {
    abandon();
    throw;
  }
  Recording* recording = backend.endRecording(handle, &error);
  return recording ? recording : refuse(toFailure(error));
}

void Recordings::forgetAll() {
  for (const Entry& entry : entries_)
    if (entry.recording) device_->backend().releaseRecording(device_->handle(), entry.recording);
  entries_.clear();
}

}  // namespace ddpm
