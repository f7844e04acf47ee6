// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Product of a matrix, dense, block-sparse or of fixed fan-in, and one vector.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Four sums, so that an addition need not wait for the one before it.
constexpr int kSums = 4;

inline Pixel block_sums(const Linear& layer, const float* weights, const std::int32_t* sources) {
  Pixel sum[kSums];
  unroll<kSums>([&](auto u) __attribute__((always_inline)) { sum[u.value] = filled(0); });
  for (int k = 0; k < layer.count; ++k) {
    const float* x = layer.input + sources[k];
    for (int c = 0; c < layer.width; c += kSums) {
      unroll<kSums>([&](auto u) __attribute__((always_inline)) {
        accumulate(sum[u.value], load(weights + u.value * kBlock), x[c + u.value]);
      });
      weights += kSums * kBlock;
    }
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline Pixel column_sums(const Linear& layer, const float* weights, const std::int32_t* columns) {
  Pixel sum = filled(0);
  for (int k = 0; k < layer.count; ++k) {
    float gathered[kBlock];
    for (int i = 0; i < kBlock; ++i) gathered[i] = layer.input[columns[i]];
    accumulate(sum, load(weights), load(gathered));
    weights += kBlock;
    columns += kBlock;
  }
  return sum;
}

inline void linear(const Linear& layer, int block, int block_end) {
  const std::ptrdiff_t fan_in = std::ptrdiff_t{layer.count} * layer.width;
  for (int o = block; o < block_end; ++o) {
    const float* weights = layer.weights + o * fan_in * kBlock;
    Pixel sum = layer.columns ? column_sums(layer, weights, layer.columns + o * fan_in * kBlock)
                              : block_sums(layer, weights, layer.sources + o * layer.count);
    if (layer.bias) sum = sum + load(layer.bias + o * kBlock);
    store(layer.output + o * kBlock, clamp(sum, layer.low, layer.high));
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
