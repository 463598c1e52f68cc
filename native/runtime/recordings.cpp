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
  if (!backend.beginRecording || !device_->debug().records) {
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
    ++recorded_;
  }
  Error error;
  if (!backend.replay(device_->handle(), entry.recording, &error)) throw toFailure(error);
  ++replayed_;
}

Recording* Recordings::record(const std::function<void()>& issue) {
  const Backend& backend = device_->backend();
  DeviceHandle* handle = device_->handle();
  Error error;
  if (!backend.beginRecording(handle, &error)) throw toFailure(error);
  try {
    issue();
  } catch (...) {
    Error ignored;  // of what cannot be finished; the first error counts
    if (Recording* part = backend.endRecording(handle, &ignored)) backend.releaseRecording(handle, part);
    throw;
  }
  Recording* recording = backend.endRecording(handle, &error);
  if (!recording) throw toFailure(error);
  return recording;
}

}  // namespace ddpm
