// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Where values lie: borders, torch's order and back, concatenation, depth to space.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

inline float* value_at(const Tensor& tensor, int channel, int row, int column) {
  return tensor.data + channel / kBlock * tensor.block + row * tensor.row +
         std::ptrdiff_t{column} * kBlock + channel % kBlock;
}

inline bool finite(const float* values, std::ptrdiff_t count) {
  const Pixel zero = filled(0);
  Pixel bad[4] = {zero, zero, zero, zero};  // 0 times a value, unless that is not finite
  std::ptrdiff_t i = 0;
  for (; i + 4 * kBlock <= count; i += 4 * kBlock) {
    unroll<4>([&](auto u) __attribute__((always_inline)) {
      accumulate(bad[u.value], load(values + i + u.value * kBlock), zero);
    });
  }
  float rest = 0;
  for (; i < count; ++i) rest += values[i] * 0;
  float lanes[kBlock];
  store(lanes, (bad[0] + bad[1]) + (bad[2] + bad[3]));
  for (float lane : lanes) rest += lane;
  return rest == 0;
}

inline void fill_border(const Tensor& tensor, int border_h, int border_w, bool planar) {
  const std::ptrdiff_t pixel = planar ? 1 : kBlock;
  const std::ptrdiff_t side = border_w * pixel;
  const std::ptrdiff_t line = tensor.width * pixel + 2 * side;
  const int count = planar ? tensor.channels : blocks_of(tensor.channels);
  for (int o = 0; o < count; ++o) {
    float* row = tensor.data + o * tensor.block - border_h * tensor.row - side;
    for (int y = -border_h; y < tensor.height + border_h; ++y, row += tensor.row) {
      if (y < 0 || y >= tensor.height) {
        __builtin_memset(row, 0, line * sizeof(float));
      } else {
        __builtin_memset(row, 0, side * sizeof(float));
        __builtin_memset(row + line - side, 0, side * sizeof(float));
      }
    }
  }
}

inline void import_planes(const float* values, const Tensor& output, bool planar) {
  const std::ptrdiff_t plane = std::ptrdiff_t{output.height} * output.width;
  const int channels = planar ? output.channels : blocks_of(output.channels) * kBlock;
  for (int c = 0; c < channels; ++c) {
    for (int y = 0; y < output.height; ++y) {
      const float* from = values + c * plane + std::ptrdiff_t{y} * output.width;
      if (planar) {
        __builtin_memcpy(output.data + c * output.block + y * output.row, from,
                         output.width * sizeof(float));
        continue;
      }
      float* to = value_at(output, c, y, 0);
      for (int x = 0; x < output.width; ++x) to[x * kBlock] = c < output.channels ? from[x] : 0;
    }
  }
}

inline void export_planes(const Tensor& input, float* values) {
  for (int c = 0; c < input.channels; ++c) {
    for (int y = 0; y < input.height; ++y) {
      const float* from = value_at(input, c, y, 0);
      for (int x = 0; x < input.width; ++x) *values++ = from[x * kBlock];
    }
  }
}

inline void copy_channels(const Tensor& input, const Tensor& output, int channel) {
  for (int c = 0; c < input.channels; ++c) {
    for (int y = 0; y < input.height; ++y) {
      const float* from = value_at(input, c, y, 0);
      float* to = value_at(output, channel + c, y, 0);
      for (int x = 0; x < input.width; ++x) to[x * kBlock] = from[x * kBlock];
    }
  }
}

inline void pixel_shuffle(const Tensor& input, const Tensor& output, int factor) {
  for (int c = 0; c < blocks_of(output.channels) * kBlock; ++c) {
    for (int y = 0; y < output.height; ++y) {
      float* to = value_at(output, c, y, 0);
      for (int x = 0; x < output.width; ++x) {
        const int from = (c * factor + y % factor) * factor + x % factor;
        to[x * kBlock] = c < output.channels ? *value_at(input, from, y / factor, x / factor) : 0;
      }
    }
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
