// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Weights from the order in which they are stored to the order in which the kernels read them.

#include <algorithm>

#include "kernels.hpp"

namespace sparse_split {

int dense_width(int inputs) {
  // The widest that a multiple of four channels divides into: fewer than four may be padding.
  const int padded = (inputs + 3) / 4 * 4;
  return padded % 16 == 0 ? 16 : padded % 8 == 0 ? 8 : 4;
}

std::size_t conv_floats(int outputs, int count, int width, int kernel_h, int kernel_w) {
  return std::size_t(blocks_of(outputs)) * count * kernel_h * kernel_w * width * kBlock;
}

void pack_conv(const float* weights, const std::int32_t* blocks, int outputs, int fan_in, int count,
               int width, int kernel_h, int kernel_w, float* packed, std::int32_t* sources) {
  const std::size_t kernel = std::size_t(kernel_h) * kernel_w;
  for (int o = 0; o < blocks_of(outputs); ++o) {
    for (int k = 0; k < count; ++k) {
      *sources++ = (blocks ? blocks[o * count + k] : k) * width;
      for (std::size_t place = 0; place < kernel; ++place) {
        for (int c = k * width; c < (k + 1) * width; ++c) {
          for (int output = o * kBlock; output < (o + 1) * kBlock; ++output) {
            *packed++ = output < outputs && c < fan_in
                            ? weights[(std::size_t(output) * fan_in + c) * kernel + place]
                            : 0;
          }
        }
      }
    }
  }
}

void pack_depthwise(const float* weights, int channels, int kernel_h, int kernel_w, float* packed) {
  const std::size_t kernel = std::size_t(kernel_h) * kernel_w;
  for (int o = 0; o < blocks_of(channels); ++o) {
    for (std::size_t place = 0; place < kernel; ++place) {
      for (int c = o * kBlock; c < (o + 1) * kBlock; ++c) {
        *packed++ = c < channels ? weights[c * kernel + place] : 0;
      }
    }
  }
}

void pack_columns(const float* weights, const std::int32_t* columns, int outputs, int fan_in,
                  float* packed, std::int32_t* packed_columns) {
  for (int o = 0; o < blocks_of(outputs); ++o) {
    for (int k = 0; k < fan_in; ++k) {
      for (int output = o * kBlock; output < (o + 1) * kBlock; ++output) {
        const std::size_t from = std::size_t(output) * fan_in + k;
        *packed++ = output < outputs ? weights[from] : 0;
        *packed_columns++ = output < outputs ? columns[from] : 0;
      }
    }
  }
}

void pack_vector(const float* values, int n, float* packed) {
  std::fill(std::copy(values, values + n, packed), packed + blocks_of(n) * kBlock, 0.0f);
}

}  // namespace sparse_split
