// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels: what one layer computes, given where its tensors lie.
//
// Nothing here allocates, throws, locks or checks its arguments: the planner checks once, then a
// frame is a list of calls. Each kernel does a `Range` of its output, so that several threads can
// share a layer. The same kernels are compiled once per instruction set; `best()` is the table of
// those that this machine runs fastest. int8.hpp has the same for integers of 8 bits.

#pragma once

#include <cstddef>
#include <cstdint>

namespace sparse_split {

// Channels are stored in blocks of 16, one AVX-512 register of float32: [ceil(C/16)][H][W][16].
constexpr int kBlock = 16;
// Alignment in bytes of arenas and packed weights. Kernels are correct without it, and slower.
constexpr std::size_t kAlignment = 64;

// What a row down in the window counts in Conv::taps; a column to the right counts 1.
constexpr int kTapRow = 256;

constexpr int blocks_of(int channels) { return (channels + kBlock - 1) / kBlock; }

// Activations of one image. Channels beyond `channels` in the last block are zero: kernels read
// them as such and leave them so.
//
// A convolution with padding reads up to `padding` pixels beyond every edge of its input. These
// pixels must lie in the same memory (leave a border: `row` > 16 * width, `block` larger too) and
// be zero: fill_border() makes them so, and no kernel writes there.
template <typename T>
struct Blocked {
  T* data = nullptr;  // channel 0 of pixel (0, 0), which is behind the border
  int channels = 0;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row = 0;    // elements from a pixel to the one below it
  std::ptrdiff_t block = 0;  // elements from a block of channels to the next
};
using Tensor = Blocked<float>;

// The part of an output that one call computes: blocks of channels and rows, ends excluded.
struct Range {
  int block = 0;
  int block_end = 0;
  int row = 0;
  int row_end = 0;
};

template <typename T>
Range whole(const Blocked<T>& output) {
  return {0, blocks_of(output.channels), 0, output.height};
}

// output = clamp(convolution(input) + bias + residual, low, high), with low <= 0 <= high.
//
// Each block of 16 outputs reads `count` blocks of `width` inputs, those that begin at the channels
// sources[output block][count]: multiples of `width`, which divides 16. A dense convolution lists
// all of them, a grouped one those of its group. Where the taps (positions of the kernel) read
// different blocks, each source is of one tap: kernel_h and kernel_w are 1, and `taps` [count] says
// how far down and to the right in the window, as row * kTapRow + column.
struct Conv {
  Tensor input;
  Tensor output;
  Tensor residual;                // as the output; data is null where there is none
  const float* weights = nullptr;  // [output block][count][kh][kw][width][16], see pack_conv()
  const float* bias = nullptr;     // [output block][16], or null
  const std::int32_t* sources = nullptr;
  const std::int32_t* taps = nullptr;
  int count = 0;
  int width = kBlock;
  int kernel_h = 1, kernel_w = 1;
  int stride_h = 1, stride_w = 1;
  int pad_h = 0, pad_w = 0;
  int dilation_h = 1, dilation_w = 1;
  float low = -__builtin_inff(), high = __builtin_inff();  // 0 and inf: ReLU; 0 and 6: ReLU6
  // The first layer reads planes: input.data is [C][H][W] (with a border), input.row the elements
  // from a row to the next, input.block those from a channel to the next; count is 1, sources are
  // 0 and width is C, whatever it is.
  bool planar = false;
};

// output channel c = clamp(convolution of input channel c + bias + residual, low, high).
struct Depthwise {
  Tensor input;
  Tensor output;
  Tensor residual;
  const float* weights = nullptr;  // [block][kh][kw][16], see pack_depthwise()
  const float* bias = nullptr;
  int kernel_h = 1, kernel_w = 1;
  int stride_h = 1, stride_w = 1;
  int pad_h = 0, pad_w = 0;
  int dilation_h = 1, dilation_w = 1;
  float low = -__builtin_inff(), high = __builtin_inff();
};

// output = clamp(weights * input + bias, low, high). Vectors are plain: [ceil(n/16) * 16] floats,
// zero beyond n, which is also how a tensor of one pixel lies.
struct Linear {
  const float* input = nullptr;
  float* output = nullptr;
  const float* weights = nullptr;  // [output block][count][width][16], see pack_conv() with k = 1
  const float* bias = nullptr;     // [output block][16], or null
  // As in Conv. Null for a fixed fan-in: `columns` [output block][count][16] then says which input
  // each of the 16 outputs reads, and width is 1 (pack_columns()).
  const std::int32_t* sources = nullptr;
  const std::int32_t* columns = nullptr;
  int count = 0;
  int width = kBlock;
  int outputs = 0;
  float low = -__builtin_inff(), high = __builtin_inff();
};

enum class Pooling { kMax, kAverage };

// Windows beyond the edge count as torch counts them; the border is not read.
struct Pool {
  Tensor input;
  Tensor output;
  Pooling kind = Pooling::kMax;
  int kernel_h = 1, kernel_w = 1;
  int stride_h = 1, stride_w = 1;
  int pad_h = 0, pad_w = 0;
  bool count_include_pad = true;
};

enum class Function { kClamp, kHardSigmoid, kHardSwish, kSigmoid };

// output = f(input): clamp(x, alpha, beta) (ReLU: 0, inf); hard_sigmoid, clamp(alpha * x + beta,
// 0, 1); hard_swish, x * clamp(x / 6 + 0.5, 0, 1); sigmoid. Input and output may be one tensor.
struct Unary {
  Tensor input;
  Tensor output;
  Function function = Function::kClamp;
  float alpha = 0, beta = 0;
};

enum class Operator { kAdd, kMultiply };

// output = clamp(left (+ or *) right, low, high). `right` is a tensor like `left`, one of one pixel
// (a value per channel, as squeeze-and-excitation has), or, where its data is null, `value`.
struct Binary {
  Tensor left;
  Tensor right;
  Tensor output;
  Operator kind = Operator::kAdd;
  float value = 0;
  float low = -__builtin_inff(), high = __builtin_inff();
};

enum class Packing { kHalf, kByte, kNibble };

// The payload's values before entropy coding, as link/codec.py lays them down: channel after
// channel, little-endian. kHalf: float16; kByte: codes round((x - low) / step) of 8 bits; kNibble:
// of 4 bits, two in a byte, low half first.
struct Pack {
  Tensor input;
  std::uint8_t* output = nullptr;
  Packing kind = Packing::kByte;
  const float* low = nullptr;   // [C]
  const float* step = nullptr;  // [C]
};

// The kernels of one instruction set.
struct Kernels {
  const char* name;  // avx512, avx2, neon or plain

  void (*conv)(const Conv&, Range);
  void (*depthwise)(const Depthwise&, Range);
  void (*linear)(const Linear&, int block, int block_end);
  void (*pool)(const Pool&, Range);
  // Mean over all pixels, into [ceil(C/16)][16].
  void (*global_average)(const Tensor& input, float* output, int block, int block_end);
  void (*unary)(const Unary&, Range);
  void (*binary)(const Binary&, Range);
  // Probabilities softmax(logits / temperature) of n values; output and input may be the same.
  void (*softmax)(const float* logits, float* output, int n, float temperature);

  // Whether none of `runs` times `count` values, the runs `stride` apart, is infinite or no number.
  bool (*finite)(const float* values, std::ptrdiff_t count, std::ptrdiff_t stride, int runs);

  // Zeroes the `border` pixels around each block of channels (around each plane, if `planar`).
  void (*fill_border)(const Tensor&, int border_h, int border_w, bool planar);
  // [C][H][W] floats into planes with a border (`planar`, for the first layer) or into blocks.
  void (*import_planes)(const float* values, const Tensor& output, bool planar);
  // Blocks to [C][H][W], torch's order. Also what `flatten` is.
  void (*export_planes)(const Tensor& input, float* values);
  // Copies all channels of `input` into those of `output` from `channel` on: concat.
  void (*copy_channels)(const Tensor& input, const Tensor& output, int channel);
  // Depth to space as torch.nn.PixelShuffle: output has C / factor^2 channels.
  void (*pixel_shuffle)(const Tensor& input, const Tensor& output, int factor);
  // False where a value is not finite; the output is then not to be sent.
  bool (*pack)(const Pack&);

  // Multiply-adds in registers only, for peak_gmacs(); says how many.
  std::int64_t (*spin)(std::int64_t rounds);
  // Rows that conv computes at once at this output width: a good grain to cut work by.
  int (*tile_rows)(int output_width);
};

// The fastest table for this machine, or the one that the environment variable SPARSE_SPLIT_ISA
// names. Decided once.
const Kernels& best();
// The table of this name; null where this build or this machine does not have it.
const Kernels* find(const char* name);
// All that this machine can run, fastest first; null at the end.
const Kernels* const* available();

// Billions of multiply-adds per second of one thread, measured for about `seconds`: the bound of
// every float32 kernel of this table.
double peak_gmacs(const Kernels& kernels, double seconds);

// ---- Packing of weights, at plan time ----

// Blocks that a dense convolution of `inputs` channels lists, and their width (16, 8 or 4).
int dense_width(int inputs);
// Floats that pack_conv() writes: ceil(O/16) * count * kh * kw * width * 16.
std::size_t conv_floats(int outputs, int count, int width, int kernel_h, int kernel_w);

// Packs weights [O][fan_in][kh][kw] of fan_in <= count * width for Conv and Linear. With `blocks`
// [ceil(O/16)][count] of a block-regular pattern sources become blocks * width; without it the
// layer is dense and sources are 0, width, 2 width ... Missing outputs and inputs become zero.
void pack_conv(const float* weights, const std::int32_t* blocks, int outputs, int fan_in, int count,
               int width, int kernel_h, int kernel_w, float* packed, std::int32_t* sources);
// Packs [C][1][kh][kw] into [block][kh][kw][16].
void pack_depthwise(const float* weights, int channels, int kernel_h, int kernel_w, float* packed);
// Packs a fixed fan-in: weights and columns [O][fan_in] into [block][fan_in][16] each.
void pack_columns(const float* weights, const std::int32_t* columns, int outputs, int fan_in,
                  float* packed, std::int32_t* packed_columns);
// A vector of n floats into whole blocks, zero beyond n: for biases.
void pack_vector(const float* values, int n, float* packed);

}  // namespace sparse_split
