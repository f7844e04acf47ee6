// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Depthwise convolution: each channel by itself, sixteen at a time.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Pixels of one row computed at once; their accumulators fill half of the registers.
constexpr int kRun = SPARSE_SPLIT_REGISTERS / kParts >= 16 ? 8 : 4;

template <int COLUMNS>
void depthwise_run(const Depthwise& layer, const float* corner, const float* weights,
                   const float* bias, const float* residual, float* output) {
  Pixel sum[COLUMNS];
  const Pixel first = bias ? load(bias) : filled(0);
  unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) { sum[q.value] = first; });
  const std::ptrdiff_t step = std::ptrdiff_t{layer.stride_w} * kBlock;
  for (int i = 0; i < layer.kernel_h; ++i) {
    const float* x = corner + i * layer.dilation_h * layer.input.row;
    for (int j = 0; j < layer.kernel_w; ++j) {
      const Pixel w = load(weights);
      unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
        accumulate(sum[q.value], w, load(x + q.value * step));
      });
      x += std::ptrdiff_t{layer.dilation_w} * kBlock;
      weights += kBlock;
    }
  }
  unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
    const Pixel value =
        residual ? sum[q.value] + load(residual + q.value * kBlock) : sum[q.value];
    store(output + q.value * kBlock, clamp(value, layer.low, layer.high));
  });
}

inline void depthwise(const Depthwise& layer, Range range) {
  const Tensor& in = layer.input;
  const Tensor& out = layer.output;
  const std::ptrdiff_t weights = std::ptrdiff_t{layer.kernel_h} * layer.kernel_w * kBlock;
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      const float* corner = in.data + o * in.block + (y * layer.stride_h - layer.pad_h) * in.row -
                            std::ptrdiff_t{layer.pad_w} * kBlock;
      const float* w = layer.weights + o * weights;
      const float* bias = layer.bias ? layer.bias + o * kBlock : nullptr;
      const float* residual = layer.residual.data ? layer.residual.data + o * layer.residual.block +
                                                        y * layer.residual.row
                                                  : nullptr;
      float* to = out.data + o * out.block + y * out.row;
      const std::ptrdiff_t step = std::ptrdiff_t{layer.stride_w} * kBlock;
      for (int x = 0; x < out.width;) {
        const float* from = corner + x * step;
        const std::ptrdiff_t place = std::ptrdiff_t{x} * kBlock;
        const float* added = residual ? residual + place : nullptr;
        if (out.width - x >= kRun) {
          depthwise_run<kRun>(layer, from, w, bias, added, to + place);
          x += kRun;
        } else if (out.width - x >= 4) {
          depthwise_run<4>(layer, from, w, bias, added, to + place);
          x += 4;
        } else {
          depthwise_run<1>(layer, from, w, bias, added, to + place);
          x += 1;
        }
      }
    }
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
