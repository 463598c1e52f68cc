// What a GPU's driver reads of a library's code: the kernels in its fat binaries, with what each needs of a
// multiprocessor. Of the ELF files within (cubins), whose sections cuobjdump -elf shows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fake {

struct Parameter {
  size_t offset, bytes;  // in the order of the kernel's signature
};

struct Kernel {
  std::string name;  // mangled
  int registers = 0;
  int maxThreads = 1024;  // of a block, by __launch_bounds__
  size_t staticShared = 0;
  std::vector<Parameter> parameters;
};

// By name, for one architecture, such as 90 for sm_90a. Nothing where the binary has no code for it. Aborts on a fat
// binary that cannot be read (compressed: nvcc's default is not to).
std::map<std::string, Kernel> kernelsOf(const void* fatBinaryWrapper, int architecture);

}  // namespace fake
