// What emulated tiles (kernels/cpu/bf16/tiles_emulated.h) must not forgive, a case each: misused CASE ends with the
// fault.
#include <functional>
#include <map>
#include <string>

#include "kernels/cpu/bf16/tiles_emulated.h"

namespace {

using namespace ddpm::cpu::DDPM_ISA;

// Tile 0 is 2 x 3 sums of the 4 pairs of tiles 4 and 6.
TileConfig small() {
  TileConfig config;
  const auto set = [&](int tile, int rows, int columns) {
    config.rows[tile] = uint8_t(rows);
    config.columnBytes[tile] = uint16_t(4 * columns);
  };
  set(0, 2, 3);
  set(4, 2, 4);
  set(6, 4, 3);
  return config;
}

template <class Change>
auto configured(Change change) {
  return [change] {
    TileConfig config = small();
    change(config);
    EmulatedTiles tiles(config);
    tiles.multiply<0, 4, 6>();
  };
}

template <class Use>
auto used(Use use) {
  return [use] {
    EmulatedTiles tiles(small());
    use(tiles);
  };
}

// Rows and columns beyond the configured ones are zeros, whatever was there.
void clears() {
  float sums[16][16];
  for (auto& row : sums)
    for (float& sum : row) sum = 7.0f;
  EmulatedTiles tiles(small());
  tiles.load<0>(sums, sizeof sums[0]);
  tiles.zero<4>();
  tiles.zero<6>();
  tiles.multiply<0, 4, 6>();
  float out[2][3] = {};
  tiles.store<0>(out, sizeof out[0]);
  for (const auto& row : out)
    for (float sum : row) std::printf("%g ", sum);
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<void()>> cases = {
      {"right", clears},
      {"palette", configured([](TileConfig& c) { c.palette = 2; })},
      {"reserved", configured([](TileConfig& c) { c.reserved[3] = 1; })},
      {"tile 8", configured([](TileConfig& c) { c.rows[8] = 1, c.columnBytes[8] = 4; })},
      {"17 rows", configured([](TileConfig& c) { c.rows[0] = 17; })},
      {"68 bytes", configured([](TileConfig& c) { c.columnBytes[6] = 68; })},
      {"rows alone", configured([](TileConfig& c) { c.columnBytes[0] = 0; })},
      {"rows differ", configured([](TileConfig& c) { c.rows[4] = 3; })},
      {"depths differ", configured([](TileConfig& c) { c.columnBytes[4] = 12; })},
      {"columns differ", configured([](TileConfig& c) { c.columnBytes[6] = 8; })},
      {"half a pair", configured([](TileConfig& c) { c.columnBytes[0] = c.columnBytes[6] = 6; })},
      {"not configured", used([](EmulatedTiles& t) { t.zero<1>(); })},
      {"twice", used([](EmulatedTiles& t) { t.multiply<0, 4, 4>(); })},
  };
  const auto found = cases.find(argc > 1 ? argv[1] : "");
  if (found == cases.end()) return 2;
  found->second();
  return 0;
}
