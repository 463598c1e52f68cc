// Softmax attention, backward. With p = exp(scale q kᵀ - lse), D = sum over channels of dy*y (Dao et al. 2022,
// appendix B.4):
//   dv = pᵀ dy;  dp = dy vᵀ;  ds = p*(dp - D);  dq = scale ds k;  dk = scale dsᵀ q.
//
// p and ds of a block of queries by a block of keys are held at a time, transposed as in the forward pass. Panels of
// queries share the work on p, ds and dq, then pieces of the keys that on dv and dk: each product is computed once, and
// each sum in one order. Where there are heads enough a thread does all of a head, and otherwise threads share it.
#include "kernels/cpu/attention_tiles.h"

namespace ddpm::cpu::DDPM_ISA {

namespace {

constexpr int kQueries = 256;  // a block
constexpr int kTogether = 4;   // vectors whose exponentials are computed at once
constexpr int64_t kSquare = kKeys * kQueries;

// How the heads of all samples are worked off. No result depends on it.
struct Plan {
  int64_t queries, keys, dim, heads, total;
  int64_t panels;  // in a block of queries
  bool masked;
  bool shared;    // threads share the heads
  int64_t group;  // heads at a time, of all threads if they share them
  int64_t parts;  // tasks that a head is cut into, for one block by one block

  Plan(const AttentionBackward& op, int threads)
      : queries(int64_t(op.q.h) * op.q.w),
        keys(int64_t(op.k.h) * op.k.w),
        dim(op.shape.headDim),
        heads(op.shape.heads),
        total(op.q.n * heads),
        panels(ceilDiv<int64_t>(minOf<int64_t>(queries, kQueries), kCols)),
        masked(bool(op.mask)),
        shared(total % threads != 0 && total < 8 * threads) {
    group = shared ? minOf(total, ceilDiv<int64_t>(2 * threads, panels)) : 1;
    parts = shared ? minOf(panels, ceilDiv<int64_t>(2 * threads, group)) : 1;
  }
};

// What is held of a head: of the block of queries, and of it by the block of keys.
struct HeadScratch {
  float *queries, *dy, *dq;   // panels: log2(e) scale q, dy, and the sums that dq will be
  float *queryRows, *dyRows;  // [channel / kCols][query][kCols]: scale q, dy
  float *lse, *dots;          // in base 2; D
  float *p, *ds;              // [panel][key][kCols]

  HeadScratch(const Plan& w, ScratchCutter& cut) {
    const int64_t panelFloats = w.panels * kCols * w.dim, rows = kQueries * ceilDiv<int64_t>(w.dim, kCols) * kCols;
    queries = cut.take<float>(panelFloats);
    dy = cut.take<float>(panelFloats);
    dq = cut.take<float>(panelFloats);
    queryRows = cut.take<float>(rows);
    dyRows = cut.take<float>(rows);
    lse = cut.take<float>(kQueries);
    dots = cut.take<float>(kQueries);
    p = cut.take<float>(kSquare);
    ds = cut.take<float>(kSquare);
  }
};

// A thread's rows of the block of keys, and the mask of a panel by them.
struct KeyScratch {
  float *keys, *values, *mask;
  KeyScratch(const Plan& w, ScratchCutter& cut)
      : keys(cut.take<float>(rowFloats(kKeys, w.dim))),
        values(cut.take<float>(rowFloats(kKeys, w.dim))),
        mask(w.masked ? cut.take<float>(kKeys * kCols) : nullptr) {}
};

// One head's tensors.
struct Head {
  const float *q, *k, *v, *y, *dy, *lse, *mask;
  float *dq, *dk, *dv;

  Head(const AttentionBackward& op, const Plan& w, int64_t i) {
    const int64_t n = i / w.heads, head = i % w.heads;
    const AttentionShape& shape = op.shape;
    const auto at = [&](const Tensor& t, int64_t tokens, int64_t distance) {
      return t.f32() + n * tokens * t.ld + head * distance;
    };
    q = at(op.q, w.queries, shape.qHead);
    k = at(op.k, w.keys, shape.kHead);
    v = at(op.v, w.keys, shape.vHead);
    y = at(op.y, w.queries, w.dim);
    dy = at(op.dy, w.queries, w.dim);
    dq = at(op.dq, w.queries, shape.qHead);
    dk = at(op.dk, w.keys, shape.kHead);
    dv = at(op.dv, w.keys, shape.vHead);
    lse = op.lse.f32() + n * op.lse.ld + head * w.queries;
    mask = maskOf(op.mask, n);
  }
  // Whether the query may attend to no key, and so weighs them alike.
  bool isAlone(int64_t query) const { return lse[query] == kMaskedScore; }
};

float dot(const float* a, const float* b, int64_t count) {
  vf total = zero();
  forChannels(count, [&](int64_t i, auto part) DDPM_LAMBDA_INLINE { total += part.load(a + i) * part.load(b + i); });
  return sum(total);
}

// to[c / kCols][token][c % kCols] = from[token][c] * scale, zeros for the channels that are not there.
void packChannels(const float* from, int64_t ld, int64_t tokens, int64_t dim, float scale, float* to) {
  for (int64_t c = 0; c < dim; c += kCols, to += kQueries * kCols)
    for (int64_t t = 0; t < tokens; ++t)
      for (int v = 0; v < kCols; v += kWidth) {
        const int64_t left = dim - c - v;
        const float* x = from + t * ld + c + v;
        store(to + t * kCols + v, (left >= kWidth ? load(x)
                                   : left > 0     ? loadPart(x, int(left))
                                                  : zero()) *
                                      broadcast(scale));
      }
}

// The scores and products dp of `count` vectors become p and ds.
template <int Count, int Vectors>
DDPM_INLINE void weigh(float* p, float* ds, const vf (&lse)[Vectors], const vf (&dots)[Vectors]) {
  vf x[Count];
  for (int i = 0; i < Count; ++i) x[i] = load(p + i / Vectors * kCols + i % Vectors * kWidth) - lse[i % Vectors];
  exp2All(x);
  for (int i = 0; i < Count; ++i) {
    const int64_t at = i / Vectors * kCols + i % Vectors * kWidth;
    store(p + at, x[i]);
    store(ds + at, x[i] * (load(ds + at) - dots[i % Vectors]));
  }
}

// p and ds of one panel and the block of `count` keys, and what they add to dq.
template <int Vectors>
void panelGradients(const KeyScratch& k, const HeadScratch& h, int64_t panel, int64_t dim, int64_t count,
                    Ahead& nextKeys, Ahead& nextValues) {
  const int64_t from = panel * kCols * dim, square = panel * kCols * kKeys;
  float *p = h.p + square, *ds = h.ds + square;
  vf unused[Vectors] = {}, lse[Vectors], dots[Vectors], ones[Vectors];
  const Pieces tiles(count);
  for (int i = 0; i < tiles.pieces; ++i) {
    nextKeys.step();
    nextValues.step();
    const int64_t row = tiles.begin(i) * kChunk, out = tiles.begin(i) * kCols;
    withTileRows(tiles.size(i), [&]<int Rows>() {
      scoreTile<Rows, Vectors>(k.keys + row, count * kChunk, h.queries + from, dim, p + out, unused);
      scoreTile<Rows, Vectors>(k.values + row, count * kChunk, h.dy + from, dim, ds + out, unused);
    });
  }

  for (int64_t i = 0; k.mask && i < count * kCols; i += kCols)
    for (int64_t v = i; v < i + Vectors * kWidth; v += kWidth) store(p + v, load(p + v) + load(k.mask + v));

  for (int v = 0; v < Vectors; ++v) {
    lse[v] = load(h.lse + panel * kCols + v * kWidth);
    dots[v] = load(h.dots + panel * kCols + v * kWidth);
    ones[v] = broadcast(1.0f);
  }
  constexpr int kStep = kTogether / Vectors;
  int64_t key = 0;
  for (; key + kStep <= count; key += kStep) weigh<kTogether>(p + key * kCols, ds + key * kCols, lse, dots);
  for (; key < count; ++key) weigh<Vectors>(p + key * kCols, ds + key * kCols, lse, dots);

  for (int64_t c = 0; c < dim; c += kChunk) {
    const Pieces channels(minOf<int64_t>(dim - c, kChunk));
    for (int i = 0; i < channels.pieces; ++i)
      withTileRows(channels.size(i), [&]<int Rows>() {
        valueTile<Rows, Vectors>(k.keys + c * count + channels.begin(i), ds, count, ones,
                                 h.dq + from + (c + channels.begin(i)) * kCols);
      });
  }
}

// out[r][0..cols) = or += sum over the queries of weights[query / kCols][r][query % kCols] * rows[query][..].
template <int Rows, int Vectors>
void keyTile(const float* weights, const float* rows, int64_t queries, float* out, int64_t ld, int cols, bool add) {
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) __builtin_prefetch(out + r * ld + v * kWidth, 1);
  vf sums[Rows][Vectors] = {};
  for (int64_t i = 0; i < queries; i += kCols, weights += kKeys * kCols)
    multiplyAdd<kCols, 1>(sums, minOf<int64_t>(queries - i, kCols), weights, rows + i * kCols);
#pragma GCC unroll 2
  for (int v = 0; v < Vectors; ++v) {
    const int part = cols - v * kWidth;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      float* y = out + r * ld + v * kWidth;
      if (part >= kWidth)
        store(y, add ? load(y) + sums[r][v] : sums[r][v]);
      else
        storePart(y, add ? loadPart(y, part) + sums[r][v] : sums[r][v], part);
    }
  }
}

// Rows [begin, end) of a block of keys: out = or += weightsᵀ rows.
void keyGradients(const float* weights, const float* rows, int64_t queries, int64_t begin, int64_t end, int64_t dim,
                  float* out, int64_t ld, bool add) {
  const Pieces tiles(end - begin);
  for (int64_t c = 0; c < dim; c += kCols, rows += kQueries * kCols)
    for (int i = 0; i < tiles.pieces; ++i) {
      const int64_t row = begin + tiles.begin(i);
      const int cols = int(minOf<int64_t>(dim - c, kCols));
      withTileRows(tiles.size(i), [&]<int Rows>() {
        if (cols > kWidth)
          keyTile<Rows, 2>(weights + row * kCols, rows, queries, out + row * ld + c, ld, cols, add);
        else
          keyTile<Rows, 1>(weights + row * kCols, rows, queries, out + row * ld + c, ld, cols, add);
      });
    }
}

// Heads [first, first + count). each(tasks, body) calls body(task, thread) for every task; head(i) and keys(thread) are
// the memory for the i-th of them and of a thread.
template <class Each, class HeadOf, class KeysOf>
void backward(const AttentionBackward& op, const Plan& w, int64_t first, int64_t count, const Each& each,
              const HeadOf& headOf, const KeysOf& keysOf) {
  const int64_t dim = w.dim;
  for (int64_t query = 0; query < w.queries; query += kQueries) {
    const int64_t queries = minOf<int64_t>(kQueries, w.queries - query), panels = ceilDiv<int64_t>(queries, kCols);
    const int64_t parts = minOf(w.parts, panels);
    // body(head of the group, panels begin to end, thread)
    const auto forPanels = [&](const auto& body) {
      each(count * parts, [&](int64_t task, int thread) {
        const int64_t part = task % parts;
        body(task / parts, panels * part / parts, panels * (part + 1) / parts, thread);
      });
    };
    const auto queriesOf = [&](int64_t panel) { return minOf<int64_t>(queries - panel * kCols, kCols); };

    forPanels([&](int64_t i, int64_t begin, int64_t end, int) {
      const Head head(op, w, first + i);
      const HeadScratch s = headOf(i);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t token = panel * kCols, row = query + token, tokens = queriesOf(panel);
        const float *q = head.q + row * op.q.ld, *dy = head.dy + row * op.dy.ld, *y = head.y + row * op.y.ld;
        packPanel(q, op.q.ld, int(tokens), int(dim), op.shape.scale * kLog2e, s.queries + token * dim);
        packPanel(dy, op.dy.ld, int(tokens), int(dim), 1.0f, s.dy + token * dim);
        packChannels(q, op.q.ld, tokens, dim, op.shape.scale, s.queryRows + token * kCols);
        packChannels(dy, op.dy.ld, tokens, dim, 1.0f, s.dyRows + token * kCols);
        for (int64_t c = 0; c < kCols * dim; ++c) s.dq[token * dim + c] = 0.0f;
        for (int64_t t = 0; t < kCols; ++t) {
          s.lse[token + t] = t < tokens ? head.lse[row + t] * kLog2e : 0.0f;
          s.dots[token + t] = t < tokens ? dot(dy + t * op.dy.ld, y + t * op.y.ld, dim) : 0.0f;
        }
        // As a query of zeros that attends to all keys.
        for (int64_t t = 0; w.masked && t < tokens; ++t) {
          if (!head.isAlone(row + t)) continue;
          s.lse[token + t] = __builtin_log2f(float(w.keys));
          for (int64_t c = 0; c < dim; ++c) {
            s.queries[token * dim + c * kCols + t] = 0.0f;
            s.queryRows[(c / kCols * kQueries + token + t) * kCols + c % kCols] = 0.0f;
          }
        }
      }
    });

    for (int64_t key = 0; key < w.keys; key += kKeys) {
      const int64_t keys = minOf<int64_t>(kKeys, w.keys - key), next = key + keys;

      forPanels([&](int64_t i, int64_t begin, int64_t end, int thread) {
        const Head head(op, w, first + i);
        const HeadScratch s = headOf(i);
        const KeyScratch k = keysOf(thread);
        packRows(head.k + key * op.k.ld, op.k.ld, keys, dim, k.keys);
        packRows(head.v + key * op.v.ld, op.v.ld, keys, dim, k.values);
        const int64_t ahead = minOf<int64_t>(kKeys, w.keys - next), steps = (end - begin) * Pieces(keys).pieces;
        Ahead nextKeys(head.k + next * op.k.ld, op.k.ld, ahead, dim, steps);
        Ahead nextValues(head.v + next * op.v.ld, op.v.ld, ahead, dim, steps);
        for (int64_t panel = begin; panel < end; ++panel) {
          const int64_t row = query + panel * kCols;
          if (w.masked)
            packMask(
                head.mask + row * op.mask.ld + key, op.mask.ld, int(queriesOf(panel)), keys,
                [&](int t) { return head.isAlone(row + t); }, k.mask);
          if (queriesOf(panel) > kWidth)
            panelGradients<2>(k, s, panel, dim, keys, nextKeys, nextValues);
          else
            panelGradients<1>(k, s, panel, dim, keys, nextKeys, nextValues);
        }
      });

      each(count * w.parts, [&](int64_t task, int) {
        const int64_t i = task / w.parts, part = task % w.parts;
        const int64_t begin = keys * part / w.parts, end = keys * (part + 1) / w.parts;
        const Head head(op, w, first + i);
        const HeadScratch s = headOf(i);
        keyGradients(s.p, s.dyRows, queries, begin, end, dim, head.dv + key * op.dv.ld, op.dv.ld, query > 0);
        keyGradients(s.ds, s.queryRows, queries, begin, end, dim, head.dk + key * op.dk.ld, op.dk.ld, query > 0);
      });
    }

    forPanels([&](int64_t i, int64_t begin, int64_t end, int) {
      const Head head(op, w, first + i);
      const HeadScratch s = headOf(i);
      float scales[kCols];
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t t = 0; t < kCols; ++t) {
          const bool isAlone = w.masked && t < queriesOf(panel) && head.isAlone(query + panel * kCols + t);
          scales[t] = isAlone ? 0.0f : op.shape.scale;
        }
        unpackPanel(s.dq + panel * kCols * dim, scales, int(queriesOf(panel)), int(dim),
                    head.dq + (query + panel * kCols) * op.dq.ld, op.dq.ld);
      }
    });
  }
}

}  // namespace

size_t scratch(const CpuDevice& device, const AttentionBackward& op) {
  const int threads = device.pool.threads();
  const Plan w(op, threads);
  ScratchCutter cut(nullptr);
  for (int64_t i = 0; i < (w.shared ? w.group : threads); ++i) HeadScratch(w, cut);
  for (int i = 0; i < threads; ++i) KeyScratch(w, cut);
  return cut.bytes();
}

void run(CpuDevice& device, const AttentionBackward& op, void* memory) {
  const int threads = device.pool.threads();
  const Plan w(op, threads);
  ScratchCutter one(nullptr);
  HeadScratch(w, one);
  const size_t headBytes = one.bytes();
  KeyScratch(w, one);
  const size_t keyBytes = one.bytes() - headBytes;
  char* base = static_cast<char*>(memory);
  const auto headOf = [&](int64_t i) {
    ScratchCutter cut(base + i * headBytes);
    return HeadScratch(w, cut);
  };
  const auto keysOf = [&](int thread) {
    ScratchCutter cut(base + (w.shared ? w.group : threads) * headBytes + thread * keyBytes);
    return KeyScratch(w, cut);
  };

  if (w.shared) {
    const auto each = [&](int64_t tasks, const auto& body) { device.pool.parallelFor(tasks, body); };
    for (int64_t first = 0; first < w.total; first += w.group)
      backward(op, w, first, minOf(w.group, w.total - first), each, headOf, keysOf);
    return;
  }
  device.pool.parallelFor(w.total, [&](int64_t i, int thread) {
    const auto each = [&](int64_t tasks, const auto& body) {
      for (int64_t task = 0; task < tasks; ++task) body(task, thread);
    };
    backward(
        op, w, i, 1, each, [&](int64_t) { return headOf(thread); }, keysOf);
  });
}

}  // namespace ddpm::cpu::DDPM_ISA
