#include "native/runtime/program.h"

#include "native/runtime/device_sum.h"

namespace ddpm {

Program::Program(std::shared_ptr<Device> owner, Compiled compiled)
    : device(std::move(owner)),
      compiled_(std::move(compiled)),
      steps_(compiled_.steps),
      written_(compiled_.storages.size()),
      bases_(compiled_.storages.size()),
      recordings_(device) {
  findPatches();
  scratchOffset_ = compiled_.arenaBytes;  // a multiple of the arena's alignment
  sumOffset_ = scratchOffset_ + compiled_.scratchBytes;
  workspaceBytes_ = sumOffset_ + compiled_.sumBytes;
}

void Program::reserve() {
  if (reserved_) return;
  if (compiled_.packedBytes) packed_ = static_cast<char*>(device->allocate(compiled_.packedBytes));
  try {
    device->reserveWorkspace(workspaceBytes_);
  } catch (...) {
    device->release(packed_);
    packed_ = nullptr;
    throw;
  }
  reserved_ = true;
}

Program::~Program() {
  if (!reserved_) return;
  device->release(packed_);
  device->unreserveWorkspace(workspaceBytes_);
}

void Program::findPatches() {
  const auto find = [&](std::vector<Step>& steps) {
    for (Step& step : steps) {
      visitPointers(step, [&](void*& pointer, Access access) {
        const Address address = decode(pointer);
        patches_.push_back({&pointer, address});
        if (access != Access::read) written_[address.storage] = true;
      });
    }
  };
  for (Prologue& prologue : steps_.prologues) find(prologue.steps);
  find(steps_.steps);
}

void Program::checkBindings(const Bindings& bindings) const {
  if (!reserved_) throw Failure::argumentOf("run", "program", "a program with memory", "one without: see reserve");
  for (const Storage& s : compiled_.storages) {
    if (s.kind != Storage::external) continue;
    const auto found = bindings.find(s.name);
    const std::string expected = "a buffer of at least " + std::to_string((s.bytes + 3) / 4) + " elements";
    if (found == bindings.end()) throw Failure::argumentOf("run", s.name, expected, "nothing");
    const Buffer& buffer = *found->second;
    if (buffer.device != device)
      throw Failure::argumentOf("run", s.name, "a buffer of the program's device", "another's");
    if (uint64_t(buffer.elements) * 4 < s.bytes) {
      throw Failure::argumentOf("run", s.name, expected, std::to_string(buffer.elements) + " elements");
    }
  }
  for (const auto& [name, buffer] : bindings) {
    if (compiled_.names.count(name)) continue;
    std::string known;
    for (const std::string& n : compiled_.names) known += (known.empty() ? "" : ", ") + n;
    throw Failure::argumentOf("run", name, "one of the names " + known, "a buffer for '" + name + "'");
  }
}

void Program::bind(const Bindings& bindings) {
  for (size_t i = 0; i < bases_.size(); ++i) {
    const Storage& s = compiled_.storages[i];
    switch (s.kind) {
      case Storage::arena:
        bases_[i] = device->workspace() + s.offset;
        break;
      case Storage::packed:
        bases_[i] = packed_ + s.offset;
        break;
      case Storage::external:
        bases_[i] = bindings.at(s.name)->data;
        break;
    }
  }
  for (const Patch& p : patches_) *p.pointer = bases_[p.address.storage] + p.address.offset;
}

void Program::run(const Bindings& bindings, bool waits) {
  bind(bindings);
  // However it ends, what is written is not what it was.
  struct Touch {
    const Program& program;
    const Bindings& bindings;
    ~Touch() {
      for (size_t i = 0; i < program.written_.size(); ++i) {
        const Storage& s = program.compiled_.storages[i];
        if (s.kind == Storage::external && program.written_[i]) ++bindings.at(s.name)->version;
      }
    }
  } touch{*this, bindings};

  // The prologues that are to run now, with their banks.
  std::array<const Buffer*, 2> packs = {};
  for (size_t i = 0; i < packs.size(); ++i) {
    const auto& [bank, prologue] = steps_.prologues[i];
    if (prologue.empty()) continue;
    const Buffer* buffer = bindings.at(bank).get();
    Packed& from = packedFrom_[i];
    if (from.id == buffer->id && from.version == buffer->version) continue;
    packs[i] = buffer;
    from = {};  // in case that it fails
  }
  // What the steps depend on beside the program itself: where its operands and the scratch are, and what is to be done.
  Recordings::Key key(bases_.begin(), bases_.end());
  key.push_back(device->workspace());
  for (size_t i = 0; i < packs.size(); ++i) key.push_back(packs[i] ? &steps_.prologues[i] : nullptr);
  const auto pack = [&] {
    for (size_t i = 0; i < packs.size(); ++i) {
      auto& steps = steps_.prologues[i].steps;
      if (packs[i]) execute(steps, 0, steps.size());
    }
  };
  if (compiled_.hasRanks) {
    executeWithRanks(bindings, key, pack);
  } else {
    recordings_.run(key, [&] {
      pack();
      execute(steps_.steps, 0, steps_.steps.size());
    });
  }
  if (device->debug().times) times_.endRun();
  Error error;
  const bool packed = packs[0] || packs[1];
  if ((waits || packed) && !device->backend().synchronize(device->handle(), &error)) throw toFailure(error);
  for (size_t i = 0; i < packs.size(); ++i) {
    if (packs[i]) packedFrom_[i] = {packs[i]->id, packs[i]->version};
  }
  if (compiled_.keepsMirror) packedFrom_[0].version = bindings.at("weights")->version + 1;  // which `touch` makes
}

namespace {

Summands summandsOf(const RankSum& op, const Program::Bindings& bindings) {
  const int64_t first = op.rank * op.share, last = first + op.share - 1;
  Summands summands = {{}, nodesOf(first, last), op.share, op.keepsParts};
  for (size_t i = 0; i < op.earlier.size(); ++i) summands.banks.push_back(bindings.at(earlierBank(int64_t(i))));
  summands.banks.push_back(bindings.at("grads"));
  summands.nodes.push_back({last, last + 1});
  return summands;
}

}  // namespace

void Program::executeWithRanks(const Bindings& bindings, const Recordings::Key& key,
                               const std::function<void()>& before) {
  const std::shared_ptr<World> world = World::joined();
  const auto check = [&](const auto& op) {
    if (world && world->size() == op.ranks && world->rank() == op.rank) return;
    throw Failure("rank-failed", "a program for rank " + std::to_string(op.rank) + " of " + std::to_string(op.ranks) +
                                     ", which this process is not");
  };
  for (const Step& step : steps_.steps) {
    if (const auto* op = std::get_if<RankGather>(&step)) check(*op);
    if (const auto* op = std::get_if<RankSum>(&step)) check(*op);
  }
  if (const auto there = std::dynamic_pointer_cast<DeviceWorld>(world))
    return executeWithDevices(*there, bindings, key, before);
  const auto host = std::dynamic_pointer_cast<HostWorld>(world);
  size_t begin = 0;
  // What is between two steps with other ranks is recorded by itself.
  const auto executeTo = [&](size_t end, const StepsDone& isDone) {
    const auto issue = [&] {
      if (begin == 0) before();
      execute(steps_.steps, begin, end, isDone);
    };
    Recordings::Key part = key;
    part.push_back(steps_.steps.data() + begin);
    recordings_.run(part, issue);
    Error error;
    if (!device->backend().synchronize(device->handle(), &error)) throw toFailure(error);
    begin = end;
  };
  for (size_t at = 0; at < steps_.steps.size(); ++at) {
    if (const auto* op = std::get_if<RankGather>(&steps_.steps[at])) {
      executeTo(at, {});
      gatherParts(*host, *device, *op);
    }
    if (const auto* op = std::get_if<RankSum>(&steps_.steps[at])) {
      Summands summands = summandsOf(*op, bindings);
      if (isOfHost(*device)) {
        OverlappedSum sum(host, std::move(summands), compiled_.sum.order);
        executeTo(at, [&](int64_t steps) { sum.ready(steps); });
        sum.wait();
      } else {
        executeTo(at, {});
        sumBanks(*host, summands);
      }
    }
  }
  executeTo(steps_.steps.size(), {});
}

void Program::executeWithDevices(DeviceWorld& world, const Bindings& bindings, const Recordings::Key& key,
                                 const std::function<void()>& before) {
  world.check();
  recordings_.run(key, [&] {
    before();
    std::unique_ptr<DeviceSum> sum;
    if (compiled_.sum.exists()) {
      auto* const scratch = reinterpret_cast<float*>(device->workspace() + sumOffset_);
      const Summands summands = summandsOf(std::get<RankSum>(steps_.steps[compiled_.sum.at]), bindings);
      sum = std::make_unique<DeviceSum>(world, summands, compiled_.sum.order, scratch);
    }
    const StepsDone isDone = [&](int64_t steps) {
      if (sum) sum->ready(steps);
    };
    size_t begin = 0;
    for (size_t at = 0; at < steps_.steps.size(); ++at) {
      const auto* gather = std::get_if<RankGather>(&steps_.steps[at]);
      if (!gather && at != compiled_.sum.at) continue;
      execute(steps_.steps, begin, at, isDone);
      begin = at;
      if (gather) {
        enqueueGather(world, *device, *gather);
      } else {
        sum->finish();
        sum.reset();
      }
    }
    execute(steps_.steps, begin, steps_.steps.size());
  });
  uint64_t sent = 0;
  for (const Step& step : steps_.steps) {
    if (const auto* op = std::get_if<RankSum>(&step)) sent += sentBytes(*op);
    if (const auto* op = std::get_if<RankGather>(&step)) sent += sentBytes(*op);
  }
  world.countSent(sent);
}

void Program::execute(std::vector<Step>& steps, size_t begin, size_t end, const StepsDone& isDone) {
  const Backend& backend = device->backend();
  void* scratch = device->workspace() + scratchOffset_;
  Error error;
  if (isDone) isDone(int64_t(begin));
  for (size_t i = begin; i < end; ++i) {
    Step& step = steps[i];
    device->checkOpen();
    const auto start = std::chrono::steady_clock::now();
    const bool ok = std::visit(
                        [&](const auto& op) {
                          using Op = std::decay_t<decltype(op)>;
#define DDPM_RUN(Name) \
  if constexpr (std::is_same_v<Op, Name>) return backend.k##Name.run(device->handle(), op, scratch, &error);
                          DDPM_OPS(DDPM_RUN)
#undef DDPM_RUN
                          return true;
                        },
                        step) &&
                    (!device->debug().synchronizes || backend.synchronize(device->handle(), &error));
    if (!ok) {
      Failure failure = toFailure(error);
      failure.message = std::string(opName(step)) + ": " + failure.message;
      throw failure;
    }
    if (device->debug().times) times_.add(step, std::chrono::steady_clock::now() - start);
    if (isDone) isDone(int64_t(i) + 1);
  }
}

}  // namespace ddpm
