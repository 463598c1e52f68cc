// Weights as kernels multiply them: panels of kPanel channels (conv2d.h). There are three ways to have them packed:
//   kept    by ConvPackWeights, once for each change of the weights, in memory of their own, which the plan allows;
//   shared  by all threads before the product, in scratch memory, where many pixels share them;
//   own     part by part by each task, where few do, or they are large: a part stays in a cache until it is multiplied,
//           and what streams from memory is no more than the weights themselves.
// The numbers are the same. This is also where weights that are held narrow become floats.
#pragma once
#include "kernels/cpu/conv2d.h"

namespace ddpm::cpu::DDPM_ISA {

// The weights {K,R,S,C} of a convolution, in any format, and which of its two products they are for. Forward: of C, the
// depth, to K channels; dgrad: of K to C.
struct Filters {
  Tensor w, scale;  // scale?
  ConvPass pass;

  bool forward() const { return pass == ConvPass::forward; }
  int channels() const { return forward() ? w.n : w.c; }
  int depth() const { return forward() ? w.c : w.n; }
  int taps() const { return w.h * w.w; }
  // Elements of w from one weight to that of so many channels and steps of the depth further on.
  int64_t distance(int64_t channels, int64_t steps) const {
    return forward() ? channels * taps() * w.c + steps : channels + steps * taps() * w.c;
  }
};

enum class Packing { kept, shared, own };

// to[step - begin][i] = the weight of `tap` from `step` of the depth, begin <= step < end, to channel first + i;
// i < width, kWidth or kPanel; 0 for channels that are not there. Meanwhile what lies `ahead` elements behind each
// weight is asked for, which should be what is packed next.
void packTap(const Filters& f, int tap, int first, int width, int begin, int end, float* to, int64_t ahead);

// All of them, as [panel][tap][depth][panelWidth]: where the panel begins whose channels start at `first`.
inline int64_t panelOffset(const Filters& f, int first) { return int64_t(first) * f.taps() * f.depth(); }
inline int64_t panelFloats(const Filters& f) { return packedFloats(f.channels(), f.taps(), f.depth()); }
void packPanels(CpuDevice& device, const Filters& f, float* to);

}  // namespace ddpm::cpu::DDPM_ISA
