// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Kernels on integers of 8 bits, in the manner of kernels.hpp: the same blocks, lists and ranges.
//
// An activation stands for scale * (code - zero), its code of 0 to 255. `zero` is 0 for a tensor
// without negative values and 128 for one with them: a border that is not there then is all
// `zero`. A weight of output o stands for scale[o] * code, its code of -127 to 127. Sums are exact.

#pragma once

#include "kernels.hpp"

namespace sparse_split {

using Codes = Blocked<std::uint8_t>;

// What a code of a tensor stands for.
struct Scale {
  float step = 1;
  int zero = 0;
};

// Real values clamp(convolution(input) + bias + residual, low, high) become codes of `output`; or,
// where that has no data, float32 of `real`. Channels beyond the last one need not be zero.
struct ConvInt8 {
  Codes input, output, residual;
  Tensor real;
  Scale input_scale, output_scale, residual_scale;
  const std::int8_t* weights = nullptr;   // [output block][count][kh][kw][width / 4][16][4]
  const std::int32_t* sums = nullptr;     // [output block][16], of an output's weight codes
  const float* weight_steps = nullptr;    // [output block][16]
  const float* bias = nullptr;            // [output block][16], real, or null
  const std::int32_t* sources = nullptr;  // as in Conv, as taps are
  const std::int32_t* taps = nullptr;
  int count = 0;
  int width = kBlock;
  int kernel_h = 1, kernel_w = 1;
  int stride_h = 1, stride_w = 1;
  int pad_h = 0, pad_w = 0;
  int dilation_h = 1, dilation_w = 1;
  float low = -__builtin_inff(), high = __builtin_inff();
};

// The blocks that a call computes of an output of codes or of real values.
inline Range whole(const ConvInt8& layer) {
  return layer.output.data ? whole(layer.output) : whole(layer.real);
}

struct Int8Kernels {
  const char* name;  // vnni, dotprod or plain
  bool fast;         // faster than float32, which plain is not

  void (*conv)(const ConvInt8&, Range);
  void (*quantise)(const Tensor& input, const Codes& output, Scale scale, Range);
  void (*dequantise)(const Codes& input, Scale scale, const Tensor& output, Range);
  // Sets the border pixels around each block of channels to `zero`.
  void (*fill_border)(const Codes&, int border_h, int border_w, int zero);
};

// As their namesakes in kernels.hpp. The plain ones, where SPARSE_SPLIT_ISA names less than the
// best.
const Int8Kernels& best_int8();
const Int8Kernels* find_int8(const char* name);
const Int8Kernels* const* available_int8();

// The scale of a tensor of values up to `range`, all >= 0 or not.
Scale scale_of(float range, bool negative);

// As pack_conv(), of conv_floats() bytes; also finds steps and sums, [ceil(O/16)][16] each.
void pack_conv_int8(const float* weights, const std::int32_t* blocks, int outputs, int fan_in,
                    int count, int width, int kernel_h, int kernel_w, std::int8_t* packed,
                    std::int32_t* sources, float* steps, std::int32_t* sums);

}  // namespace sparse_split
