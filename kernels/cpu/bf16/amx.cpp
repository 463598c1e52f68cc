// The instructions of AMX-TILE and AMX-BF16. They have not run on hardware; amx_emulated.cpp runs the same kernel.
#include "kernels/cpu/bf16/amx.h"

namespace ddpm::cpu::DDPM_ISA {
namespace {

// A configuration is a thread's; between two products there is none, so that switching threads saves no tiles.
struct Tiles {
  explicit Tiles(const TileConfig& config) {
    written(&config);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;

  // The intrinsics want numbers as they are written.
  template <int T>
  void zero() {
    if constexpr (T == 0) _tile_zero(0);
    if constexpr (T == 1) _tile_zero(1);
    if constexpr (T == 2) _tile_zero(2);
    if constexpr (T == 3) _tile_zero(3);
  }
  template <int T>
  void load(const void* from, int64_t stride) {
    written(from);
    if constexpr (T == 0) _tile_loadd(0, from, stride);
    if constexpr (T == 1) _tile_loadd(1, from, stride);
    if constexpr (T == 2) _tile_loadd(2, from, stride);
    if constexpr (T == 3) _tile_loadd(3, from, stride);
    if constexpr (T == 4) _tile_loadd(4, from, stride);
    if constexpr (T == 5) _tile_loadd(5, from, stride);
    if constexpr (T == 6) _tile_loadd(6, from, stride);
    if constexpr (T == 7) _tile_loadd(7, from, stride);
  }
  template <int T>
  void store(void* to, int64_t stride) {
    if constexpr (T == 0) _tile_stored(0, to, stride);
    if constexpr (T == 1) _tile_stored(1, to, stride);
    if constexpr (T == 2) _tile_stored(2, to, stride);
    if constexpr (T == 3) _tile_stored(3, to, stride);
  }
  template <int Sum, int Rows, int Panel>
  void multiply() {
    static_assert(Sum == (Rows - kRowTiles) * 2 + Panel - kPanelTiles);
    if constexpr (Sum == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (Sum == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (Sum == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (Sum == 3) _tile_dpbf16ps(3, 5, 7);
  }

 private:
  // GCC does not know that the instructions read memory: what is there has to be written before.
  static void written(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }
};

}  // namespace

extern const bf16::Kernel kBf16;
const bf16::Kernel kBf16 = amxKernel<Tiles>("amx");

}  // namespace ddpm::cpu::DDPM_ISA
