// AMX's tile instructions as Intel documents them: what LDTILECFG accepts, what each instruction faults on, which parts
// of tiles become zero. A fault ends the process with what it was.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "kernels/cpu/bf16/amx.h"
#include "kernels/cpu/bf16/arithmetic.h"

namespace ddpm::cpu::DDPM_ISA {

class EmulatedTiles {
 public:
  // LDTILECFG
  explicit EmulatedTiles(const TileConfig& config) : config_(config) {
    check(config.palette == 1, "LDTILECFG", "palette");
    for (uint8_t byte : config.reserved) check(byte == 0, "LDTILECFG", "a reserved byte");
    for (int t = 0; t < 16; ++t) {
      const int rows = config.rows[t], bytes = config.columnBytes[t];
      check(t < kTiles || (rows == 0 && bytes == 0), "LDTILECFG", "a tile that palette 1 has not");
      check(rows <= kTileRows && bytes <= kTileBytes, "LDTILECFG", "a tile is too large");
      check((rows == 0) == (bytes == 0), "LDTILECFG", "rows without columns, or columns without rows");
    }
    memset(tiles_, 0, sizeof tiles_);
  }
  EmulatedTiles(const EmulatedTiles&) = delete;

  // TILEZERO
  template <int T>
  void zero() {
    checkTile(T, "TILEZERO");
    memset(tiles_[T], 0, sizeof tiles_[T]);
  }

  // TILELOADD; what is beyond the configured rows and columns becomes zero.
  template <int T>
  void load(const void* from, int64_t stride) {
    checkTile(T, "TILELOADD");
    memset(tiles_[T], 0, sizeof tiles_[T]);
    for (int r = config_.startRow; r < config_.rows[T]; ++r)
      memcpy(tiles_[T][r], static_cast<const char*>(from) + r * stride, config_.columnBytes[T]);
  }

  // TILESTORED
  template <int T>
  void store(void* to, int64_t stride) {
    checkTile(T, "TILESTORED");
    for (int r = config_.startRow; r < config_.rows[T]; ++r)
      memcpy(static_cast<char*>(to) + r * stride, tiles_[T][r], config_.columnBytes[T]);
  }

  // TDPBF16PS
  template <int C, int A, int B>
  void multiply() {
    const int operands[] = {C, A, B};
    for (int t : operands) {
      checkTile(t, "TDPBF16PS");
      check(config_.columnBytes[t] % 4 == 0, "TDPBF16PS", "columns that are no pairs");
    }
    check(C != A && C != B && A != B, "TDPBF16PS", "one tile twice");
    const int rows = config_.rows[C], pairs = config_.columnBytes[A] / 4, columns = config_.columnBytes[C] / 4;
    check(rows == config_.rows[A], "TDPBF16PS", "rows of the sums and of the first operand");
    check(pairs == config_.rows[B], "TDPBF16PS", "columns of the first operand, rows of the second");
    check(columns * 4 == config_.columnBytes[B], "TDPBF16PS", "columns of the sums and of the second operand");
    for (int m = 0; m < rows; ++m) {
      float even[kTileBytes / 4] = {}, odd[kTileBytes / 4] = {};
      for (int k = 0; k < pairs; ++k)
        for (int n = 0; n < columns; ++n) {
          even[n] = multiplyAdd(evenOf(tiles_[A][m][k]), evenOf(tiles_[B][k][n]), even[n]);
          odd[n] = multiplyAdd(oddOf(tiles_[A][m][k]), oddOf(tiles_[B][k][n]), odd[n]);
        }
      for (int n = 0; n < kTileBytes / 4; ++n) {
        float sum = 0.0f;
        if (n < columns) {
          memcpy(&sum, &tiles_[C][m][n], sizeof sum);
          sum = add(sum, add(even[n], odd[n]));
        }
        memcpy(&tiles_[C][m][n], &sum, sizeof sum);
      }
    }
    for (int m = rows; m < kTileRows; ++m) memset(tiles_[C][m], 0, kTileBytes);
  }

 private:
  static constexpr int kTiles = 8;

  static void check(bool is, const char* instruction, const char* what) {
    if (is) return;
    std::fprintf(stderr, "emulated AMX: %s: %s\n", instruction, what);
    std::abort();
  }
  void checkTile(int t, const char* instruction) const {
    check(config_.rows[t] > 0, instruction, "no such tile is configured");
  }

  TileConfig config_;
  uint32_t tiles_[kTiles][kTileRows][kTileBytes / 4];
};

}  // namespace ddpm::cpu::DDPM_ISA
