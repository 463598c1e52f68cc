#include <cstdio>

#include "native/graph/compile.h"

namespace ddpm {
namespace {

std::string place(const Compiled& compiled, const void* pointer) {
  const Address a = decode(pointer);
  const Storage& s = compiled.storages[a.storage];
  char text[64];
  std::snprintf(text, sizeof text, "+%llu", static_cast<unsigned long long>(s.offset + a.offset));
  return (s.kind == Storage::external ? s.name : s.kind == Storage::packed ? "packed" : "arena") + text;
}

std::string describeStep(const Compiled& compiled, const Step& step) {
  std::string line = opName(step);
  Step copy = step;
  std::visit(
      [&](auto& op) {
        if constexpr (requires { op.algo; }) line += std::string(" ") + nameOf(op.algo);
        if constexpr (requires { op.splits; })
          if (op.splits > 1) line += " in " + std::to_string(op.splits) + " parts";
        visitFields(op, [&](const char* name, auto& field, Access) {
          if (!pointerOf(field)) return;
          line += std::string(" ") + name;
          if constexpr (std::is_same_v<std::decay_t<decltype(field)>, Tensor>) {
            line += toString(Dims{field.n, field.h, field.w, field.c});
            if (sizeOf(field.dtype) < 4) line += std::string(":") + nameOf(field.dtype);
            if (field.ld != field.c) line += "/" + std::to_string(field.ld);
          }
          line += "@" + place(compiled, pointerOf(field));
        });
      },
      copy);
  return line + "\n";
}

std::string describeSum(const SumPlan& sum) {
  const size_t pieces = sum.order.size();
  std::string line = "RankSum: " + std::to_string(pieces) + " pieces, after steps";
  for (const Outgoing& out : sum.order) line += " " + std::to_string(out.after);
  return line + " of " + std::to_string(sum.at) + "\n";
}

}  // namespace

std::string shapesOf(const Step& step) {
  std::string line = opName(step);
  Step copy = step;
  std::visit(
      [&](auto& op) {
        if constexpr (requires { op.algo; }) line += std::string(" ") + nameOf(op.algo);
        visitFields(op, [&](const char* name, auto& field, Access) {
          if constexpr (std::is_same_v<std::decay_t<decltype(field)>, Tensor>) {
            if (field.data) line += std::string(" ") + name + toString(Dims{field.n, field.h, field.w, field.c});
          }
        });
      },
      copy);
  return line;
}

const char* opName(const Step& step) {
  static const char* const names[] = {"nothing",
#define DDPM_NAME(Op) #Op,
                                      DDPM_OPS(DDPM_NAME)
#undef DDPM_NAME
                                          "RankSum",
                                      "RankGather"};
  return names[step.index()];
}

std::string describe(const Compiled& compiled) {
  char head[160];
  std::snprintf(head, sizeof head, "arena %.1f MB, packed weights %.1f MB, scratch %.1f MB\n",
                compiled.arenaBytes / 1e6, compiled.packedBytes / 1e6,
                double(compiled.scratchBytes + compiled.sumBytes) / 1e6);
  std::string text = head;
  for (const auto& [bank, steps] : compiled.steps.prologues) {
    for (const Step& step : steps) text += "when " + std::string(bank) + " change: " + describeStep(compiled, step);
  }
  for (const Step& step : compiled.steps.steps) text += describeStep(compiled, step);
  if (compiled.sum.exists()) text += describeSum(compiled.sum);
  return text;
}

}  // namespace ddpm
