// Folders in which people have NVIDIA's libraries, where the system's loader does not know them: beside Python's
// packages, mostly.
#pragma once
#include <string>
#include <vector>

namespace ddpm::cuda {

// Existing folders with that file, in the order in which they are worth trying, each once: of the Python of the
// environment (PYTHON, VIRTUAL_ENV, CONDA_PREFIX, the python3 of PATH; nvidia/<package>/lib of its packages, and a
// conda environment's lib), of the user's own packages, of the system. Nothing is executed.
std::vector<std::string> searchFolders(const std::string& package, const std::string& file);

// Libraries that cuDNN opens by name, beside it in Python's packages: cuBLAS and NVRTC. Empty elsewhere, where the
// loader has to find them.
std::vector<std::string> companionsOf(const std::string& folder);

}  // namespace ddpm::cuda
