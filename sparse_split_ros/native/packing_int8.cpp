// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Quantisation of weights, symmetric and per output channel, into the order of the kernels.

#include <algorithm>
#include <cmath>
#include <vector>

#include "int8.hpp"

namespace sparse_split {

Scale scale_of(float range, bool negative) {
  // A tensor of nothing but zeros still needs a positive step.
  const float levels = negative ? 127 : 255;
  return {std::max(range, 1e-12f) / levels, negative ? 128 : 0};
}

void pack_conv_int8(const float* weights, const std::int32_t* blocks, int outputs, int fan_in,
                    int count, int width, int kernel_h, int kernel_w, std::int8_t* packed,
                    std::int32_t* sources, float* steps, std::int32_t* sums) {
  const std::size_t values = conv_floats(outputs, count, width, kernel_h, kernel_w);
  std::vector<float> real(values);
  pack_conv(weights, blocks, outputs, fan_in, count, width, kernel_h, kernel_w, real.data(),
            sources);
  const std::size_t inputs = std::size_t(count) * kernel_h * kernel_w * width;
  for (int o = 0; o < blocks_of(outputs) * kBlock; ++o) {
    const float* block = real.data() + o / kBlock * inputs * kBlock + o % kBlock;
    float largest = 1e-12f;
    for (std::size_t i = 0; i < inputs; ++i) {
      largest = std::max(largest, std::fabs(block[i * kBlock]));
    }
    steps[o] = largest / 127;
    sums[o] = 0;
    std::int8_t* codes = packed + o / kBlock * inputs * kBlock + o % kBlock * 4;
    for (std::size_t i = 0; i < inputs; ++i) {
      const auto code = static_cast<std::int8_t>(std::lrint(block[i * kBlock] / steps[o]));
      codes[i / 4 * 4 * kBlock + i % 4] = code;
      sums[o] += code;
    }
  }
}

}  // namespace sparse_split
