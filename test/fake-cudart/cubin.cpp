#include "test/fake-cudart/cubin.h"

#include <elf.h>

#include <cstring>

#include "test/fake-cudart/report.h"

namespace fake {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1, kFatMagic = 0xba55ed50;
constexpr uint16_t kElfEntry = 2;
constexpr size_t kReservedShared = 1024;  // of each block, by the system; in the sections of sm_90 and later

struct Wrapper {
  uint32_t magic, version;
  const std::byte* data;
};
struct FatHeader {
  uint32_t magic;
  uint16_t version, headerBytes;
  uint64_t bytes;
};
struct EntryHeader {
  uint16_t kind, attributes;
  uint32_t headerBytes;
  uint64_t bytes;
  uint32_t unknown[3];
  uint32_t architecture;
};

// Attributes of a kernel (EIATTR_...) in sections .nv.info.
constexpr uint8_t kSized = 4;  // a format: the value is that many bytes
constexpr uint8_t kMaxThreads = 0x05, kParameterInfo = 0x17, kRegisterCount = 0x2f;

template <class T>
T read(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class F>
void forEachAttribute(const std::byte* at, size_t bytes, F f) {
  for (const std::byte* end = at + bytes; at + 4 <= end;) {
    const uint8_t format = read<uint8_t>(at), attribute = read<uint8_t>(at + 1);
    const uint16_t size = format == kSized ? read<uint16_t>(at + 2) : uint16_t(0);
    at += 4;
    if (format == kSized) f(attribute, at);
    at += size;
  }
}

class Cubin {
 public:
  explicit Cubin(const std::byte* elf) : elf_(elf), header_(read<Elf64_Ehdr>(elf)) {
    for (int i = 0; i < header_.e_shnum; ++i)
      sections_.push_back(read<Elf64_Shdr>(elf + header_.e_shoff + size_t(i) * header_.e_shentsize));
  }

  std::map<std::string, Kernel> kernels() const {
    std::map<std::string, Kernel> kernels;
    for (const Elf64_Shdr& section : sections_) {
      const std::string name = nameOf(section);
      if (name.rfind(".nv.info.", 0) == 0) addKernel(kernels[name.substr(9)], name.substr(9), section);
    }
    for (const Elf64_Shdr& section : sections_) {
      const std::string name = nameOf(section);
      if (name == ".nv.info") addRegisters(kernels, section);
      const auto found = name.rfind(".nv.shared.", 0) == 0 ? kernels.find(name.substr(11)) : kernels.end();
      if (found != kernels.end())
        found->second.staticShared = section.sh_size > kReservedShared ? section.sh_size - kReservedShared : 0;
    }
    return kernels;
  }

 private:
  std::string nameOf(const Elf64_Shdr& section) const {
    return reinterpret_cast<const char*>(elf_ + sections_[header_.e_shstrndx].sh_offset + section.sh_name);
  }

  void addKernel(Kernel& kernel, const std::string& name, const Elf64_Shdr& section) const {
    kernel.name = name;
    forEachAttribute(elf_ + section.sh_offset, section.sh_size, [&](uint8_t attribute, const std::byte* value) {
      if (attribute == kMaxThreads) kernel.maxThreads = read<int>(value) * read<int>(value + 4) * read<int>(value + 8);
      if (attribute != kParameterInfo) return;
      const size_t ordinal = read<uint16_t>(value + 4);
      if (kernel.parameters.size() <= ordinal) kernel.parameters.resize(ordinal + 1);
      kernel.parameters[ordinal] = {read<uint16_t>(value + 6), read<uint32_t>(value + 8) >> 18};
    });
  }

  void addRegisters(std::map<std::string, Kernel>& kernels, const Elf64_Shdr& info) const {
    const Elf64_Shdr* symbols = nullptr;
    for (const Elf64_Shdr& section : sections_)
      if (section.sh_type == SHT_SYMTAB) symbols = &section;
    if (!symbols) return;
    const std::byte* names = elf_ + sections_[symbols->sh_link].sh_offset;
    forEachAttribute(elf_ + info.sh_offset, info.sh_size, [&](uint8_t attribute, const std::byte* value) {
      if (attribute != kRegisterCount) return;
      const auto symbol =
          read<Elf64_Sym>(elf_ + symbols->sh_offset + size_t(read<uint32_t>(value)) * sizeof(Elf64_Sym));
      const auto found = kernels.find(reinterpret_cast<const char*>(names + symbol.st_name));
      if (found != kernels.end()) found->second.registers = read<int>(value + 4);
    });
  }

  const std::byte* elf_;
  const Elf64_Ehdr header_;
  std::vector<Elf64_Shdr> sections_;
};

}  // namespace

std::map<std::string, Kernel> kernelsOf(const void* fatBinaryWrapper, int architecture) {
  const auto wrapper = read<Wrapper>(static_cast<const std::byte*>(fatBinaryWrapper));
  const auto header = read<FatHeader>(wrapper.data);
  if (wrapper.magic != kWrapperMagic || header.magic != kFatMagic) violation("this is no fat binary");
  const std::byte* at = wrapper.data + header.headerBytes;
  for (const std::byte* end = at + header.bytes; at < end;) {
    const auto entry = read<EntryHeader>(at);
    const std::byte* payload = at + entry.headerBytes;
    at = payload + entry.bytes;
    if (entry.kind != kElfEntry || int(entry.architecture) != architecture) continue;
    if (std::memcmp(payload, ELFMAG, SELFMAG) != 0) violation("a cubin is compressed; link with --compress-mode=none");
    return Cubin(payload).kernels();
  }
  return {};
}

}  // namespace fake
