// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// What stands between two layers of bytes: pooling, and the way from float32 and back.

#pragma once

#include "dot.hpp"
#include "pool.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

inline void max_pool_int8(const Codes& in, const Codes& out, const Pool& layer, Range range) {
  typedef std::uint8_t Bytes __attribute__((vector_size(kBlock)));
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      const Window rows = window(y, layer.stride_h, layer.kernel_h, layer.pad_h, in.height);
      for (int x = 0; x < out.width; ++x) {
        const Window columns = window(x, layer.stride_w, layer.kernel_w, layer.pad_w, in.width);
        Bytes value{};
        for (int i = rows.begin; i < rows.end; ++i) {
          const std::uint8_t* from = in.data + o * in.block + i * in.row;
          for (int j = columns.begin; j < columns.end; ++j) {
            Bytes next;
            __builtin_memcpy(&next, from + std::ptrdiff_t{j} * kBlock, sizeof(next));
            value = value < next ? next : value;
          }
        }
        __builtin_memcpy(out.data + o * out.block + y * out.row + std::ptrdiff_t{x} * kBlock,
                         &value, sizeof(value));
      }
    }
  }
}

// Beyond the last channel a float32 tensor is zero, whatever the codes there are.
SPARSE_SPLIT_INLINE void store_channels(float* to, const Pixel& pixel, int used) {
  store(to, pixel);
  if (used < kBlock) __builtin_memset(to + used, 0, (kBlock - used) * sizeof(float));
}

inline void global_average_int8(const Codes& input, Scale scale, float* output, int block,
                                int block_end) {
  for (int o = block; o < block_end; ++o) {
    Pixel sum = filled(0);
    for (int y = 0; y < input.height; ++y) {
      const std::uint8_t* from = input.data + o * input.block + y * input.row;
      for (int x = 0; x < input.width; ++x) {
        sum = sum + load_codes(from + std::ptrdiff_t{x} * kBlock, scale);
      }
    }
    store_channels(output + o * kBlock, sum * filled(1.0f / (input.height * input.width)),
                   input.channels - o * kBlock);
  }
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
