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

inline bool finite(const float* values, std::ptrdiff_t count, std::ptrdiff_t stride, int runs) {
  const Pixel zero = filled(0);
  Pixel bad[4] = {zero, zero, zero, zero};  // 0 times a value, unless that is not finite
  float rest = 0;
  for (int run = 0; run < runs; ++run, values += stride) {
    std::ptrdiff_t i = 0;
    for (; i + 4 * kBlock <= count; i += 4 * kBlock) {
      unroll<4>([&](auto u) __attribute__((always_inline)) {
        accumulate(bad[u.value], load(values + i + u.value * kBlock), zero);
      });
    }
    for (; i + kBlock <= count; i += kBlock) accumulate(bad[0], load(values + i), zero);
    for (; i < count; ++i) rest += values[i] * 0;
  }
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

// Pixels of an image in order, row by row.
struct Walk {
  const Tensor& tensor;
  float* row;
  int x = 0;

  Walk(const Tensor& of, int channel) : tensor(of), row(value_at(of, channel, 0, 0)) {}
  SPARSE_SPLIT_INLINE float* next() {
    float* here = row + std::ptrdiff_t{x} * kBlock;
    if (++x == tensor.width) x = 0, row += tensor.row;
    return here;
  }
};

// Between planes and blocks a square of as many channels as pixels is turned in registers.
inline void import_planes(const float* values, const Tensor& output, bool planar) {
  const std::ptrdiff_t plane = std::ptrdiff_t{output.height} * output.width;
  if (planar) {
    for (int c = 0; c < output.channels; ++c) {
      for (int y = 0; y < output.height; ++y, values += output.width) {
        __builtin_memcpy(output.data + c * output.block + y * output.row, values,
                         output.width * sizeof(float));
      }
    }
    return;
  }
  for (int c = 0; c < blocks_of(output.channels) * kBlock; c += kLanes) {
    const int used = output.channels - c;
    const float* from = values + c * plane;
    Walk walk(output, c);
    std::ptrdiff_t pixel = 0;
    for (; pixel + kLanes <= plane; pixel += kLanes) {
      Vec lanes[kLanes] = {};
      for (int i = 0; i < kLanes && i < used; ++i) lanes[i] = load_lanes(from + i * plane + pixel);
      transpose(lanes);
      for (const Vec& lane : lanes) store_lanes(walk.next(), lane);
    }
    for (; pixel < plane; ++pixel) {
      float* to = walk.next();
      for (int i = 0; i < kLanes; ++i) to[i] = i < used ? from[i * plane + pixel] : 0;
    }
  }
}

inline void export_planes(const Tensor& input, float* values) {
  const std::ptrdiff_t plane = std::ptrdiff_t{input.height} * input.width;
  for (int c = 0; c < input.channels; c += kLanes) {
    const int used = input.channels - c < kLanes ? input.channels - c : kLanes;
    float* to = values + c * plane;
    Walk walk(input, c);
    std::ptrdiff_t pixel = 0;
    for (; pixel + kLanes <= plane; pixel += kLanes) {
      Vec lanes[kLanes];
      for (Vec& lane : lanes) lane = load_lanes(walk.next());
      transpose(lanes);
      for (int i = 0; i < used; ++i) store_lanes(to + i * plane + pixel, lanes[i]);
    }
    for (; pixel < plane; ++pixel) {
      const float* from = walk.next();
      for (int i = 0; i < used; ++i) to[i * plane + pixel] = from[i];
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
