// Rewrites that save passes over memory. Each turns the later of two nodes into one that does the work of both and
// reads what the earlier one read; the earlier one is then dead, unless somebody else reads it too.
#pragma once
#include "native/graph/placement.h"

namespace ddpm {

// silu(groupNorm(x)), scaleShift(groupNorm(x), e) and both: one groupNorm. Before differentiation, so that neither the
// norm's result nor the SiLU's input is kept for the backward pass.
void fuseNorms(Graph& graph);

// conv(upsampleNearest(x)) and its gradient of the weights read x itself, for a backend that can
// (Backend::upsamplesInConv).
void fuseUpsampling(Graph& graph);

// conv(x) + e, conv(x) + r and dgrad(dy) + r: the sum in the convolution's epilogue.
void fuseSums(Graph& graph, const Region& region);

}  // namespace ddpm
