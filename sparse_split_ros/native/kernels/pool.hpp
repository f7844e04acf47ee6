// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Maximum and average over windows and over whole images.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// The part of a window that lies inside, and its length as torch counts it: up to the padding.
struct Window {
  int begin, end, length;
};

inline Window window(int output, int stride, int kernel, int pad, int size) {
  const int begin = output * stride - pad;
  const int end = begin + kernel;
  const int padded_end = end < size + pad ? end : size + pad;
  return {begin > 0 ? begin : 0, end < size ? end : size, padded_end - begin};
}

inline void pool(const Pool& layer, Range range) {
  const Tensor& in = layer.input;
  const Tensor& out = layer.output;
  const bool maximum = layer.kind == Pooling::kMax;
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      const Window rows = window(y, layer.stride_h, layer.kernel_h, layer.pad_h, in.height);
      for (int x = 0; x < out.width; ++x) {
        const Window columns = window(x, layer.stride_w, layer.kernel_w, layer.pad_w, in.width);
        Pixel value = filled(maximum ? -__builtin_inff() : 0);
        for (int i = rows.begin; i < rows.end; ++i) {
          const float* from = in.data + o * in.block + i * in.row;
          for (int j = columns.begin; j < columns.end; ++j) {
            const Pixel next = load(from + std::ptrdiff_t{j} * kBlock);
            value = maximum ? largest(value, next) : value + next;
          }
        }
        if (!maximum) {
          // As floats, whose product is rounded as that of integers would be, and does not overflow.
          const float high = layer.count_include_pad ? rows.length : rows.end - rows.begin;
          const float wide = layer.count_include_pad ? columns.length : columns.end - columns.begin;
          value = value * filled(1.0f / (high * wide));
        }
        store(out.data + o * out.block + y * out.row + std::ptrdiff_t{x} * kBlock, value);
      }
    }
  }
}

inline void global_average(const Tensor& input, float* output, int block, int block_end) {
  for (int o = block; o < block_end; ++o) {
    Pixel sum = filled(0);
    for (int y = 0; y < input.height; ++y) {
      const float* from = input.data + o * input.block + y * input.row;
      // Row by row, which adds numbers of like size and lets rows overlap in time.
      Pixel line = filled(0);
      for (int x = 0; x < input.width; ++x) line = line + load(from + std::ptrdiff_t{x} * kBlock);
      sum = sum + line;
    }
    store(output + o * kBlock, sum * filled(1.0f / (input.height * input.width)));
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
