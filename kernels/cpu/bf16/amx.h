// Products by AMX's tiles: 32 rows x 32 columns are four tiles of sums, and a step of the depth, 16 pairs, is two tiles
// of rows, two of the panel and four TDPBF16PS. `Tiles` has the instructions: those of the processor (amx.cpp), or an
// emulation of them (tiles_emulated.h).
#pragma once
#include "kernels/cpu/bf16/pack.h"

namespace ddpm::cpu::DDPM_ISA {

// What LDTILECFG reads (Intel's Architecture Instruction Set Extensions Programming Reference, chapter on AMX).
struct TileConfig {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t columnBytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kTileRows = 16, kTilePairs = 16, kTileBytes = 64;  // the most of palette 1
constexpr int kSums = 0, kRowTiles = 4, kPanelTiles = 6;         // tiles' numbers

// A tile's rows as TILELOADD reads them: a distance apart, or copied to `copy` where they lie otherwise.
class RowTile {
 public:
  RowTile(const uint32_t* const* rows, int count) : rows_(rows), count_(count) {
    stride_ = count > 1 ? distance(0) : kTileBytes;
    for (int i = 1; i + 1 < count; ++i)
      if (distance(i) != stride_) stride_ = 0;
  }
  // The address of the pairs from `at` on; `copy` is [kTileRows][kTilePairs].
  const void* address(int64_t at, uint32_t* copy) const {
    if (stride_ != 0) return rows_[0] + at;
    for (int i = 0; i < count_; ++i) memcpy(copy + i * kTilePairs, rows_[i] + at, kTileBytes);
    return copy;
  }
  int64_t stride() const { return stride_ != 0 ? stride_ : kTileBytes; }

 private:
  int64_t distance(int i) const {
    return int64_t(reinterpret_cast<intptr_t>(rows_[i + 1]) - reinterpret_cast<intptr_t>(rows_[i]));
  }

  const uint32_t* const* rows_;
  int count_;
  int64_t stride_;
};

// Of R tiles of rows and C of columns.
template <class Tiles, int R, int C>
void multiplyTiles(const bf16::Product& o) {
  constexpr int64_t kSumStride = bf16::kColumns * sizeof(float);
  TileConfig config;
  for (int r = 0; r < R; ++r) {
    const int rows = r == 0 && R > 1 ? kTileRows : o.count - r * kTileRows;
    config.rows[kRowTiles + r] = uint8_t(rows);
    config.columnBytes[kRowTiles + r] = kTileBytes;
    for (int c = 0; c < C; ++c) {
      config.rows[kSums + 2 * r + c] = uint8_t(rows);
      config.columnBytes[kSums + 2 * r + c] = kTileBytes;
    }
  }
  for (int c = 0; c < C; ++c) {
    config.rows[kPanelTiles + c] = kTilePairs;
    config.columnBytes[kPanelTiles + c] = kTileBytes;
  }
  Tiles tiles(config);

  const auto sums = [&](int r, int c) { return o.sums + r * kTileRows * bf16::kColumns + c * kTilePairs; };
  const auto start = [&]<int r, int c>() {
    if constexpr (r < R && c < C)
      o.adds ? tiles.template load<kSums + 2 * r + c>(sums(r, c), kSumStride)
             : tiles.template zero<kSums + 2 * r + c>();
  };
  start.template operator()<0, 0>();
  start.template operator()<0, 1>();
  start.template operator()<1, 0>();
  start.template operator()<1, 1>();

  const RowTile first(o.rows, config.rows[kRowTiles]),
      second(o.rows + (R - 1) * kTileRows, config.rows[kRowTiles + R - 1]);
  alignas(64) uint32_t copies[2][kTileRows * kTilePairs];
  const int64_t panelStride = int64_t(o.width) * sizeof(uint32_t);
  for (int64_t p = 0; p < o.pairs; p += kTilePairs) {
    const uint32_t* const panel = o.panel + p * o.width;
    tiles.template load<kRowTiles>(first.address(p, copies[0]), first.stride());
    tiles.template load<kPanelTiles>(panel, panelStride);
    tiles.template multiply<kSums, kRowTiles, kPanelTiles>();
    if constexpr (C > 1) {
      tiles.template load<kPanelTiles + 1>(panel + kTilePairs, panelStride);
      tiles.template multiply<kSums + 1, kRowTiles, kPanelTiles + 1>();
    }
    if constexpr (R > 1) {
      tiles.template load<kRowTiles + 1>(second.address(p, copies[1]), second.stride());
      tiles.template multiply<kSums + 2, kRowTiles + 1, kPanelTiles>();
      if constexpr (C > 1) tiles.template multiply<kSums + 3, kRowTiles + 1, kPanelTiles + 1>();
    }
  }

  const auto finish = [&]<int r, int c>() {
    if constexpr (r < R && c < C) tiles.template store<kSums + 2 * r + c>(sums(r, c), kSumStride);
  };
  finish.template operator()<0, 0>();
  finish.template operator()<0, 1>();
  finish.template operator()<1, 0>();
  finish.template operator()<1, 1>();
}

template <class Tiles>
void multiplyByTiles(const bf16::Product& o) {
  const bool isWide = o.width == bf16::kColumns;
  if (o.count > kTileRows)
    isWide ? multiplyTiles<Tiles, 2, 2>(o) : multiplyTiles<Tiles, 2, 1>(o);
  else
    isWide ? multiplyTiles<Tiles, 1, 2>(o) : multiplyTiles<Tiles, 1, 1>(o);
}

// `speed` by a model, as nothing could be measured: TDPBF16PS does sixteen times the multiply-adds of two FMA units of
// 512 bits, of which loading tiles from the L2 cache leaves half.
template <class Tiles>
constexpr bf16::Kernel amxKernel(const char* name) {
  return {name, 2 * kTileRows, kTilePairs, 8, roundRow, packMatrix, multiplyByTiles<Tiles>};
}

}  // namespace ddpm::cpu::DDPM_ISA
