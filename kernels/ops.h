// The contract between the compiler (native/) and the backends (kernels/cpu, kernels/cuda, kernels/reference):
// one plain struct an op, one table of them at the end. A backend knows nothing of graphs, models or Node.
//
// Legend     N samples, H rows, W columns, C input channels, K output channels, R x S filter taps, G groups,
//            L tokens (H*W), T timesteps, D elements a sample (C*H*W).
// Layout     NHWC. `ld` is the distance, in elements, from one pixel to the next, so that a channel slice of a wider
//            tensor is a Tensor too (ld >= c). Pixels themselves are dense: pixel (n,h,w) starts at ((n*H+h)*W+w)*ld.
//            Convolution weights are KRSC as {n=K, h=R, w=S, c=C}; linear weights {K,1,1,C}; vectors {1,1,1,C};
//            per-sample vectors {N,1,1,C}; one number a sample {N,1,1,1}. Parameters and flat buffers have ld == c.
// dtype      f32 unless an op says otherwise. i32 for labels, timesteps and random-number coordinates.
// Precision  A program is of precision fp32, where every number is f32, or mixed: it has one narrow dtype, f16 or bf16.
//            Each activation (and gradient of one) of Conv2d*, GroupNorm*, LayerNorm*, Unary*, Geglu*, Copy, Add,
//            Dropout, UpsampleNearest*, AvgPool*, Pool, ResizeBilinear, FirResample, ToNhwc and SumPixels is f32 or
//            narrow on its own, except that an op's operands (named there) are all f32 or all narrow. Everything else
//            is f32. Arithmetic is in f32; what is narrow is rounded once, to nearest even, when it is stored.
//            Where a backend rounds operands itself (Backend::roundsOperands), every tensor of a mixed program is f32,
//            and the operands of a convolution by ConvAlgo::directBf16, and of Attention by its `products`, are rounded
//            to nearest even as they are multiplied, numbers below 2^-126 to 0; sums are in f32.
// Weights    w of Conv2d, Conv2dDgrad and ConvPackWeights may be held in another format (Backend::weightFormats): f16,
//            bf16, or i8 with a `scale` {1,1,1,K}, when weight [k,r,s,c] is scale[k] * w[k,r,s,c]. Arithmetic is the
//            same as with f32 weights of these values.
// Writing    Outputs are written with `=`; gradients of parameters (those named dWeight, dBias, dGamma, dBeta, dTable)
//            with `+=`.
// Aliasing   An output may alias an input only where the op says so ("in place").
// Optional   A Tensor with data == nullptr is absent. `?` marks those that may be.
// Tables     An i32 input that picks a row of a table for each sample (index, t) is clamped to the table: below 0 it is
//            row 0, beyond the end the last row; of gradients too. So no index reads or writes outside; indices that
//            are known on the host are refused there (lib/program.ts).
// Scratch    An op may ask for scratch memory (Kernel::scratch); it is shared by all ops of a program and holds
//            nothing between two calls. No op allocates.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ddpm {

enum class DType : int32_t { f32 = 0, f16 = 1, bf16 = 2, i32 = 3, i8 = 4 };

inline size_t sizeOf(DType t) { return t == DType::i8 ? 1 : t == DType::f16 || t == DType::bf16 ? 2 : 4; }

struct Tensor {
  void* data = nullptr;
  int32_t n = 0, h = 1, w = 1, c = 0;
  int32_t ld = 0;
  DType dtype = DType::f32;

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return int64_t(n) * h * w; }
  int64_t elements() const { return rows() * c; }
  bool dense() const { return ld == c; }
  float* f32() const { return static_cast<float*>(data); }
  int32_t* i32() const { return static_cast<int32_t*>(data); }
};

// ---------------------------------------------------------------------------------------------------------------------
// Convolution and linear layers. A linear layer is a convolution with R = S = 1 on whatever rows there are.

// How a backend computes a convolution; chosen once, when a program is compiled (Backend::planConv).
enum class ConvAlgo : int32_t {
  direct = 0,
  winograd2 = 1,
  winograd4 = 2,
  library = 3,
  tile128x128 = 4,  // direct, on tensor cores; so many pixels by so many channels at a time
  tile128x64 = 5,
  tile64x64 = 6,
  tile32x64 = 7,
  tile128x16 = 8,
  winogradUpsample = 9,  // of an input that is upsampled
  directBf16 = 10,       // direct; operands are rounded to bf16 (legend, Precision)
};

inline const char* nameOf(ConvAlgo algo) {
  switch (algo) {
    case ConvAlgo::direct:
      return "direct";
    case ConvAlgo::winograd2:
      return "winograd2";
    case ConvAlgo::winograd4:
      return "winograd4";
    case ConvAlgo::library:
      return "library";
    case ConvAlgo::tile128x128:
      return "tile128x128";
    case ConvAlgo::tile128x64:
      return "tile128x64";
    case ConvAlgo::tile64x64:
      return "tile64x64";
    case ConvAlgo::tile32x64:
      return "tile32x64";
    case ConvAlgo::tile128x16:
      return "tile128x16";
    case ConvAlgo::winogradUpsample:
      return "winogradUpsample";
    case ConvAlgo::directBf16:
      return "directBf16";
  }
  return "?";
}

// Which of the three convolutions of a layer weights are packed for.
enum class ConvPass : int32_t { forward = 0, dgrad = 1 };

struct ConvShape {
  int32_t stride = 1, padTop = 0, padLeft = 0;  // padding at the bottom and right follows from the output's size
  // 2: each pixel of x stands for 2 x 2 (UpsampleNearest), in Conv2d and Conv2dWgrad of a backend that takes it
  // (Backend::upsamplesInConv). 1 in all others.
  int32_t upsample = 1;
};

struct ConvPlan {
  ConvAlgo algo = ConvAlgo::direct;
  size_t packedBytes = 0;  // 0: the op reads the weights themselves
  int32_t splits = 1;      // parts that the sum is computed in, which are added up in order
  double saved = 0;        // time that packed weights save, in a unit of the backend's, where it can do without
};

// Weights as the algorithm wants them. Runs once for each change of the weights, not once a step.
struct ConvPackWeights {
  Tensor w;      // KRSC
  void* packed;  // ConvPlan::packedBytes
  ConvShape shape;
  ConvPass pass;
  ConvAlgo algo;
  Tensor scale = {};  // ? ; as of the convolution
};

// y[n,p,q,k] = sum_{r,s,c} w[k,r,s,c] x[n, (p*stride - padTop + r) / upsample, (q*stride - padLeft + s) / upsample, c]
//              + bias?[k] + sampleBias?[n,k] + residual?[n,p,q,k]
// Operands: x and w; of the gradients dy and w, x and dy. Weights that are narrow as operands are never packed:
// packedBytes is 0 for them.
struct Conv2d {
  Tensor x, w, y;
  Tensor bias, sampleBias, residual;  // ? ; residual may be y itself (in place): y += conv
  const void* packed;                 // as ConvPackWeights wrote it; null when ConvPlan::packedBytes is 0
  ConvShape shape;
  ConvAlgo algo;
  int32_t splits;
  Tensor scale = {};  // ? ; of i8 weights
};

// dx[n,h,w,c] = sum over the (p,q,r,s) that read (h,w): w[k,r,s,c] dy[n,p,q,k], + residual?
struct Conv2dDgrad {
  Tensor dy, w, dx;
  Tensor residual;  // ? ; may be dx itself (in place)
  const void* packed;
  ConvShape shape;
  ConvAlgo algo;
  int32_t splits;
  Tensor scale = {};  // ? ; of i8 weights
};

// dWeight[k,r,s,c] += sum_{n,p,q} dy[n,p,q,k] x[...];  dBias?[k] += sum_{n,p,q} dy[n,p,q,k]
struct Conv2dWgrad {
  Tensor x, dy, dWeight, dBias;
  ConvShape shape;
  ConvAlgo algo;
};

// ---------------------------------------------------------------------------------------------------------------------
// Norms

// Wu & He 2018. v = gamma*(x - mean)*rstd + beta over the groups' C/G channels and all pixels of a sample;
// then v = v*(1 + scale?[n,c]) + shift?[n,c]; then y = silu ? v*sigmoid(v) : v.
struct GroupNorm {
  Tensor x, gamma, beta, scale, shift, y;  // scale? and shift? {N,1,1,C}, together or not at all; y may be x
  Tensor mean, rstd;                       // {N,1,1,G}, kept for the backward pass
  int32_t groups;
  float eps;
  int32_t silu;
};

// dx =, dScale? =, dShift? =, dGamma +=, dBeta +=. dx may be dy.
struct GroupNormBackward {
  Tensor x, gamma, beta, scale, shift, mean, rstd, dy;
  Tensor dx, dGamma, dBeta, dScale, dShift;
  int32_t groups;
  int32_t silu;
};

// Ba et al. 2016, over C. y may be x. Without mean, and then without beta, it is RMSNorm (Zhang & Sennrich 2019) as
// lucidrains has it: y = gamma * sqrt(C) * x / max(|x|, eps), rstd = sqrt(C) / max(|x|, eps).
struct LayerNorm {
  Tensor x, gamma, beta, y;  // beta?
  Tensor mean, rstd;         // {N,H,W,1}; mean?
  float eps;
};
struct LayerNormBackward {
  Tensor x, gamma, mean, rstd, dy;  // mean?
  Tensor dx, dGamma, dBeta;         // dx may be dy; dBeta?
  float eps;                        // looked at without mean: where |x| <= eps, rstd does not depend on x
};

// ---------------------------------------------------------------------------------------------------------------------
// Attention. Head i of q has its channels at [i*qHead, i*qHead + headDim) from q.data, likewise k, v; so a packed qkv
// tensor is three views of it. y: head i at [i*headDim, ...). y = softmax(scale * q kᵀ) v; lse is the log of the
// softmax's denominator plus its maximum, {N,1,1,heads*Lq}, kept for the backward pass. The scores of all tokens
// never stand in memory at once. Operands: q, k, v, y, and their gradients.
//
// mask? {N or 1,H,W,Lk}, of the queries' pixels, f32: where it is 0 the score is kMaskedScore, whatever q and k are. So
// a query that may attend to none weighs all keys alike (as torch's masked_fill with the least number does); its lse is
// kMaskedScore.
constexpr float kMaskedScore = -1e30f;
struct AttentionShape {
  int32_t heads, headDim;
  int32_t qHead, kHead, vHead;  // distance in elements from one head to the next
  float scale;
};
struct Attention {
  Tensor q, k, v, y, lse;  // c of q, k, v is the extent of the view that is read, heads included
  AttentionShape shape;
  Tensor mask = {};             // ?
  DType products = DType::f32;  // bf16: q, k, v and the numerators of the softmax are rounded to it (legend)
};
// dq, dk, dv have the head distances of q, k, v.
struct AttentionBackward {
  Tensor q, k, v, y, lse, dy;
  Tensor dq, dk, dv;
  AttentionShape shape;
  Tensor mask = {};  // ?
};

// Linear attention (Shen et al. 2021): softmax over the tokens of each channel of k, then context = pᵀ v, {headDim x
// headDim} a head, and y = q' context. q' = scale * softmax of q over the channels of its head, or without querySoftmax
// scale * q. Head i has channels [i*headDim, (i+1)*headDim) everywhere. All f32.
struct LinearAttentionShape {
  int32_t heads, headDim;
  float scale;
  int32_t querySoftmax;
};
// Kept for the backward pass, each the log of a softmax's denominator plus its maximum: keyLse {N,1,1,C} of k, queryLse
// {N,H,W,heads} of q (with querySoftmax); and context {N,1,1,C*headDim} as [head][channel of k][channel of v].
struct LinearAttention {
  Tensor q, k, v, y, keyLse, queryLse, context;  // queryLse?
  LinearAttentionShape shape;
};
struct LinearAttentionBackward {
  Tensor q, k, v, y, keyLse, queryLse, context, dy;  // queryLse?
  Tensor dq, dk, dv;
  LinearAttentionShape shape;
};

// y {N,1,M+L,C}: for each sample the M tokens of a row of the table {V,1,1,M*C}, then the L pixels of x.
struct PrependTokens {
  Tensor x, table, y;
  int32_t row;
};
struct PrependTokensBackward {
  Tensor dy, dx, dTable;
  int32_t row;
};

// ---------------------------------------------------------------------------------------------------------------------
// Elementwise and data movement

// gelu: the exact one, with erf; quickGelu: x sigmoid(1.702 x) (Hendrycks & Gimpel 2016)
enum class Activation : int32_t { silu = 0, gelu = 1, relu = 2, quickGelu = 3, tanh = 4 };

struct Unary {
  Tensor x, y;
  Activation fn;
};  // in place
struct UnaryBackward {
  Tensor x, dy, dx;
  Activation fn;
};  // dx may be dy

// x {.., 2C}: y = x[:C] * gelu(x[C:]) (Shazeer 2020; value half first, as in ldm's GEGLU)
struct Geglu {
  Tensor x, y;
};
struct GegluBackward {
  Tensor x, dy, dx;
};

struct Add {
  Tensor a, b, y;
};  // y = a + b; in place on either
struct AddSample {
  Tensor x, e, y;
};  // y = x + e[n,c], e {N,1,1,C}; y may be x
struct SumPixels {
  Tensor x, y;
};  // y[n,c] = sum over pixels, y {N,1,1,C}: the gradient of e above
struct DivSample {
  Tensor x, d, y;
};  // y = x / d[n], d {N,1,1,1}, or {1,1,1,1} for all samples, f32 or i32; y may be x
struct ScaleShift {
  Tensor x, e, y;
};  // e {N,1,1,2C}: y = x*(1 + e[n,c]) + e[n,C+c]; y may be x
struct ScaleShiftBackward {
  Tensor x, e, dy, dx, de;
};  // dx may be dy

// y = x, or y += x with accumulate. Views on both sides: concat, split and their gradients; casts. x, y same
// shape.
struct Copy {
  Tensor x, y;
  int32_t accumulate;
};
struct Fill {
  Tensor y;
  float value;
};

struct UpsampleNearest {
  Tensor x, y;
  int32_t factor;
};
struct UpsampleNearestBackward {
  Tensor dy, dx;
  int32_t factor;
};
struct AvgPool {
  Tensor x, y;
  int32_t kernel;
};  // stride = kernel; trailing rows and columns are dropped
struct AvgPoolBackward {
  Tensor dy, dx;
  int32_t kernel;
};

// Over the kernel x kernel pixels of x from (p*stride - padTop, q*stride - padLeft) on, of those alone that x has: the
// padding is at most kernel / 2, so that there is one. A NaN among them is the maximum. torch.nn.MaxPool2d, and
// AvgPool2d with count_include_pad=False. No gradient.
enum class PoolType : int32_t { max = 0, mean = 1 };
struct Pool {
  Tensor x, y;
  int32_t kernel, stride, padTop, padLeft;
  PoolType type;
};

// y[p,q] = x at the place ((p + 1/2) x.h / y.h - 1/2, (q + 1/2) x.w / y.w - 1/2), or the nearest in x, linearly between
// the four pixels around it: torch's interpolate(mode='bilinear', align_corners=False). No gradient.
struct ResizeBilinear {
  Tensor x, y;
};

// A separable filter of R taps over x with up - 1 zeros after each pixel, of which every down-th place is kept:
// y[h,w] = sum over r, s of taps[r] taps[s] z[h*down + r - top, w*down + s - left], z[i*up, j*up] = x[i,j], else 0. The
// gradient is the same op, with up and down exchanged and the taps reversed. Karras et al. 2019 (StyleGAN2),
// upfirdn_2d; Zhang 2019.
constexpr int kMaxFirTaps = 8;
struct FirResample {
  Tensor x, y;
  int32_t up, down, top, left;  // top and left may be negative
  int32_t count;                // R
  float taps[kMaxFirTaps];
};

// Surface layout <-> inner layout: x {N,1,1,D} holds each sample as CHW.
struct ToNhwc {
  Tensor x, y;
};
struct ToNchw {
  Tensor x, y;
};

struct Embedding {
  Tensor index, table, y;
};  // index {N,H,W,1} i32; table {V,1,1,C}; y {N,H,W,C}
struct EmbeddingBackward {
  Tensor index, dy, dTable;
};

// y[n] = [sin(a_0) ..., cos(a_0) ...] (sinFirst; else cos before sin), a_i = 2 pi w_i t, or with log 2 pi w_i log(t).
// t {N,1,1,1} i32 or f32; weight {1,1,1,C/2}. Tancik et al. 2020; Song et al. 2021, GaussianFourierProjection.
struct FourierEmbedding {
  Tensor t, weight, y;
  int32_t log, sinFirst;
};

// y[n] = [cos(t f_0) ... , sin(t f_0) ...] (sinFirst: sin before cos), f_i = maxPeriod^(-i / (dim/2 - freqShift)); an
// odd dim ends in one zero. t {N,1,1,1} i32 or f32. ldm util.py timestep_embedding; diffusers get_timestep_embedding.
struct TimestepEmbedding {
  Tensor t, y;
  float maxPeriod, freqShift;
  int32_t sinFirst;
};

// y = keep ? x/(1-p) : 0. The mask is recomputed from (key, step, layer) in the backward pass, which is this same op on
// dy. rng {1,1,1,4} i32: seed low, seed high, step, unused. In place.
struct Dropout {
  Tensor x, rng, y;
  float p;
  int32_t layer;
};

// ---------------------------------------------------------------------------------------------------------------------
// Losses. One value a sample: loss[n] = mean over D of f(d), d = pred - target, all even:
//   l1 |d|; l2 d^2; huber (Huber 1964) m(|d| - m/2) with m = min(|d|, delta), which is d^2/2 up to delta and then
//   straight; smoothL1 the same divided by delta (torch.nn.SmoothL1Loss); pseudoHuber 2 delta (sqrt(d^2 + delta^2) -
//   delta), near 0 d^2

enum class LossType : int32_t { l1 = 0, l2, huber, smoothL1, pseudoHuber };

struct Loss {
  Tensor pred, target, loss;
  LossType type;
  float delta;  // above 0; not of l1 and l2
};
struct ElementLoss {
  Tensor pred, target, y;
  LossType type;
  float delta;
};  // the same without the mean, y as pred
struct LossBackward {
  Tensor pred, target, dLoss, dPred;
  LossType type;
  float delta;
};  // dLoss {N,1,1,1}

// Of classes: loss[n] = -log softmax(logits[n])[label[n]]; and its gradient dLogits = dLoss (softmax - one at the
// label). logits {N,1,1,K}; label {N,1,1,1} i32, clamped to the classes; loss, dLoss {N,1,1,1}.
struct CrossEntropy {
  Tensor logits, label, loss;
};
struct CrossEntropyBackward {
  Tensor logits, label, dLoss, dLogits;
};

// y[0] = sum_n x[n] w[n], all {N,1,1,1}; and its gradient dx[n] = dy[0] w[n]
struct WeightedSum {
  Tensor x, weight, y;
};
struct WeightedSumBackward {
  Tensor weight, dy, dx;
};

// ---------------------------------------------------------------------------------------------------------------------
// Diffusion. Elementwise over flat samples {N,1,1,D}; t {N,1,1,1} i32 picks a row of a table for each sample.

// y[n] = a[t[n]]*x[n] + b?[t[n]]*z?[n]: q_sample (Ho et al. 2020, eq. 4), predict_start_from_noise, means. a, b
// {T,1,1,1}. A z with n == 1 is shared by all samples. y may be x or z.
struct TimestepAffine {
  Tensor x, z, a, b, t, y;
};
struct Extract {
  Tensor table, t, y;
};  // y[n] = table[t[n]], table {T,1,1,1}

// The fused posterior step: x_t and the model's output to x_{t-1} in one pass over memory. Row t[n] of table {T,1,1,8}:
//   x0 = (row[0]*x + row[1]*out) / scale?[n];   clip: x0 = min(max(x0, -1), 1)
//   y  = row[2]*x0 + row[3]*x + row[4]*out + row[5]*noise          rows 6 and 7 are unused
// Ancestral sampling (Ho et al. 2020, eq. 7 and 11) has row[4] = 0; DDIM (Song et al. 2021, eq. 12) has row[3] = 0.
// noise: given ({N or 1,1,1,D}), or drawn as GaussianNoise does with purpose posterior; neither: row[5] is not used.
// y and x0 may be x or out.
struct PosteriorStep {
  Tensor x, out, table, t;
  Tensor noise;              // ?
  Tensor rng, sample, step;  // ? ; see GaussianNoise
  Tensor scale;              // ? ; {N,1,1,1}
  Tensor y, x0;              // x0 ?
  int32_t clip;
};

// y[n] = x[n] (1 - amount + amount std(reference[n]) / std(x[n])), the standard deviations over all elements of a
// sample: Lin et al. 2024, eq. 15 and 16. A sample of x without any deviation stays what it is. y may be x.
struct RescaleGuidance {
  Tensor x, reference, y;
  float amount;
};

// A quantile of the absolute values of each sample, within bounds: with v these in ascending order (a NaN is above
// all), y[n] = min(max(v[rank] + part (v[rank+1] - v[rank]), least), most). part 0: v[rank]; else rank + 1 < D. y
// {N,1,1,1}. Dynamic thresholding: Saharia et al. 2022, section 2.3.
struct AbsQuantile {
  Tensor x, y;
  int32_t rank;
  float part;
  float least, most;
};

// The next step of a sampling, counted on the device: step[n] += 1, then t[n] = table[step[n]]. All i32; step, t
// {N,1,1,1}, table {T,1,1,1}. t may be step.
struct NextStep {
  Tensor step, table, t;
};

// y[n, e] = normal number e of stream (seed, purpose, sample[n], step[n]); see philox.h. e counts in CHW order.
// rng {1,1,1,4} i32: seed low, seed high, unused, unused. sample, step {N,1,1,1} i32.
struct GaussianNoise {
  Tensor rng, sample, step, y;
  int32_t purpose;
};

// ---------------------------------------------------------------------------------------------------------------------
// Learned variances (Nichol & Dhariwal 2021, section 3.1), on flat samples {N,1,1,D}. Row t[n] of table {T,1,1,4} makes
// of v, the second half of the network's output, the log variance row[0] + row[1]*v. row[2] is the log variance of the
// true posterior; row[3] is 1 where the step ends in x_0, else 0.

// y = x + (1 - row[3]) exp((row[0] + row[1]*v) / 2) noise. A noise with n == 1 is shared by all samples. y may be x.
struct VarianceNoise {
  Tensor x, v, table, t, noise, y;
};

// The terms of the variational bound in bits, a value a sample: loss[n] = mean over D of
//   KL(N(trueMean, e^row[2]) || N(mean, e^logVar)) / ln 2, or where row[3] is 1, -log2 of what N(mean, e^logVar) gives
//   to the interval x0 +- 1/255, open at -1 and 1 (Ho et al. 2020, eq. 5 and 13), its distribution function
//   (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) / 2 as in improved-diffusion.
struct VariationalLoss {
  Tensor mean, trueMean, x0, v, table, t, loss;
};
struct VariationalLossBackward {
  Tensor mean, trueMean, x0, v, table, t, dLoss, dV;
};  // of v alone; dLoss {N,1,1,1}

// ---------------------------------------------------------------------------------------------------------------------
// Latents of first stages (Rombach et al. 2022), all f32. moments {N,H,W,2C}: the mean of a normal distribution, then
// its log variance l, which is clamped to [-30, 20], outside of which it has no gradient.

// y = mean + exp(l / 2) noise; and its gradient. noise and y {N,H,W,C}.
struct GaussianSample {
  Tensor moments, noise, y;
};
struct GaussianSampleBackward {
  Tensor moments, noise, dy, dMoments;
};

// kl[n] = sum over H, W, C of (mean^2 + exp(l) - 1 - l) / 2, the divergence from N(0, 1), {N,1,1,1}; and its gradient.
struct GaussianKl {
  Tensor moments, kl;
};
struct GaussianKlBackward {
  Tensor moments, dKl, dMoments;
};

// index[n,h,w] = the row of codebook {V,1,1,C} nearest to z[n,h,w] by squared distance, of equally near ones the first,
// i32; number? is the same as f32, for V up to 2^24. Both {N,H,W,1}. van den Oord et al. 2017, eq. 1.
struct NearestCode {
  Tensor z, codebook, index, number;
};

// ---------------------------------------------------------------------------------------------------------------------
// Optimizer, over flat buffers of all parameters {1,1,1,P} (several of these make a network of 2^31 parameters or
// more).

struct SumSquares {
  Tensor x, y;
};  // y[w] = sum of x[w]^2, accumulated in double, which rows there are beside it has no part in; x {1,1,W,C}, y
    // {1,1,W,1}

// Indices into the f32 vector `hyper` {1,1,1,16} of AdamW, Lion and Ema.
enum Hyper : int32_t {
  hyperLr = 0,
  hyperOneMinusBeta1,  // not beta: 1 - 0.999 in float32 is off by 5e-5
  hyperOneMinusBeta2,
  hyperEps,
  hyperWeightDecay,
  hyperBiasCorrection1,  // 1 - beta1^step
  hyperBiasCorrection2,  // 1 - beta2^step
  hyperMaxGradNorm,      // 0: no clipping
  hyperGradScale,        // gradients are multiplied by this first (1 / accumulated steps)
  hyperEmaDecay,
};

// Loshchilov & Hutter 2019, as torch.optim.AdamW computes it. Clipping as torch's clip_grad_norm_:
// scale = min(1, maxGradNorm / (norm + 1e-6)), norm = gradScale * sqrt(sumSquares[0]). Then, with the new weights, what
// Ema does; and mirror = weight. Where sumSquares[0] is not finite, nothing changes.
struct AdamW {
  Tensor weight, grad, m, v, hyper, sumSquares;  // weight, m, v in place
  Tensor ema;                                    // ? ; in place
  Tensor mirror;                                 // ? ; narrow, in programs of mixed precision
};

// Chen et al. 2023, algorithm 2: weight -= lr * (sign(beta1 * m + (1 - beta1) * grad) + weightDecay * weight), then m
// is averaged by beta2; sign(0) = 0. Clipping, ema, mirror and sums that are not finite as in AdamW.
struct Lion {
  Tensor weight, grad, m, hyper, sumSquares;  // weight, m in place
  Tensor ema;                                 // ? ; in place
  Tensor mirror;                              // ? ; narrow
};

// ema -= (1 - decay) * (ema - weight): ldm ema.py LitEma.forward
struct Ema {
  Tensor ema, weight, hyper;
};

// ---------------------------------------------------------------------------------------------------------------------
// The table. X(Name) for each op struct above that a backend runs.

// clang-format off
#define DDPM_OPS(X)                                                                                 \
  X(ConvPackWeights) X(Conv2d) X(Conv2dDgrad) X(Conv2dWgrad)                                        \
  X(GroupNorm) X(GroupNormBackward) X(LayerNorm) X(LayerNormBackward)                               \
  X(Attention) X(AttentionBackward) X(LinearAttention) X(LinearAttentionBackward)                   \
  X(PrependTokens) X(PrependTokensBackward)                                                         \
  X(Unary) X(UnaryBackward) X(Geglu) X(GegluBackward)                                               \
  X(Add) X(AddSample) X(SumPixels) X(DivSample) X(ScaleShift) X(ScaleShiftBackward) X(Copy) X(Fill)              \
  X(UpsampleNearest) X(UpsampleNearestBackward) X(AvgPool) X(AvgPoolBackward) X(FirResample) X(ToNhwc) X(ToNchw)   \
  X(Pool) X(ResizeBilinear)                                                                         \
  X(Embedding) X(EmbeddingBackward) X(FourierEmbedding) X(TimestepEmbedding) X(Dropout)                                 \
  X(Loss) X(ElementLoss) X(LossBackward) X(WeightedSum) X(WeightedSumBackward)                      \
  X(CrossEntropy) X(CrossEntropyBackward)                                                           \
  X(TimestepAffine) X(Extract) X(PosteriorStep) X(NextStep) X(GaussianNoise) X(RescaleGuidance) X(AbsQuantile) \
  X(VarianceNoise) X(VariationalLoss) X(VariationalLossBackward)                                    \
  X(GaussianSample) X(GaussianSampleBackward) X(GaussianKl) X(GaussianKlBackward) X(NearestCode)     \
  X(SumSquares) X(AdamW) X(Lion) X(Ema)
// clang-format on

}  // namespace ddpm
