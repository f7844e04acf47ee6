// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// What stands around layers of bytes: the way from float32 and back, and borders.

#pragma once

#include "dot.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Beyond the last channel a float32 tensor is zero, whatever the codes there are.
SPARSE_SPLIT_INLINE void store_channels(float* to, const Pixel& pixel, int used) {
  store(to, pixel);
  if (used < kBlock) __builtin_memset(to + used, 0, (kBlock - used) * sizeof(float));
}

inline void quantise(const Tensor& input, const Codes& output, Scale scale, Range range) {
  const Pixel per_step = filled(1 / scale.step), zero = filled(static_cast<float>(scale.zero));
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      const float* from = input.data + o * input.block + y * input.row;
      std::uint8_t* to = output.data + o * output.block + y * output.row;
      for (int x = 0; x < input.width; ++x, from += kBlock, to += kBlock) {
        store_codes(to, clamp(load(from) * per_step + zero, 0, 255));
      }
    }
  }
}

inline void dequantise(const Codes& input, Scale scale, const Tensor& output, Range range) {
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      const std::uint8_t* from = input.data + o * input.block + y * input.row;
      float* to = output.data + o * output.block + y * output.row;
      for (int x = 0; x < input.width; ++x, from += kBlock, to += kBlock) {
        store_channels(to, load_codes(from, scale), input.channels - o * kBlock);
      }
    }
  }
}

inline void fill_border_int8(const Codes& tensor, int border_h, int border_w, int zero) {
  const std::ptrdiff_t side = std::ptrdiff_t{border_w} * kBlock;
  const std::ptrdiff_t line = std::ptrdiff_t{tensor.width} * kBlock + 2 * side;
  for (int o = 0; o < blocks_of(tensor.channels); ++o) {
    std::uint8_t* row = tensor.data + o * tensor.block - border_h * tensor.row - side;
    for (int y = -border_h; y < tensor.height + border_h; ++y, row += tensor.row) {
      const bool inside = y >= 0 && y < tensor.height;
      __builtin_memset(row, zero, inside ? side : line);
      if (inside) __builtin_memset(row + line - side, zero, side);
    }
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
