// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Functions of one value or of two, and softmax.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Where f(0) is not 0, the channels beyond the last one must be made zero again.
inline void clear_tail(const Tensor& tensor, int block, int row) {
  const int used = tensor.channels - block * kBlock;
  if (used >= kBlock) return;
  float* pixel = tensor.data + block * tensor.block + row * tensor.row;
  for (int x = 0; x < tensor.width; ++x, pixel += kBlock) {
    __builtin_memset(pixel + used, 0, (kBlock - used) * sizeof(float));
  }
}

// Calls pixel(block, row, column) for every pixel of the range, and clears the tail behind it.
template <typename F>
SPARSE_SPLIT_INLINE void each_pixel(const Tensor& output, Range range, const F& pixel) {
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end; ++y) {
      for (int x = 0; x < output.width; ++x) {
        store(output.data + o * output.block + y * output.row + std::ptrdiff_t{x} * kBlock,
              pixel(o, y, x));
      }
      clear_tail(output, o, y);
    }
  }
}

SPARSE_SPLIT_INLINE Pixel load_at(const Tensor& tensor, int block, int row, int column) {
  return load(tensor.data + block * tensor.block + row * tensor.row +
              std::ptrdiff_t{column} * kBlock);
}

// e^x = 2^n * e^r, with n the nearest integer to x / ln 2 and |r| <= ln 2 / 2, where eight terms of
// the series leave a relative error of 5e-9, less than float32 resolves.
SPARSE_SPLIT_INLINE Vec exponential(Vec x) {
  const Vec lowest = Vec{} - 87.0f, highest = Vec{} + 88.0f;
  x = x < lowest ? lowest : x;
  x = highest < x ? highest : x;
  const float nearest = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x * 1.44269504f + nearest;
  const Vec n = shifted - nearest;
  const Vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
  Vec sum = r * (1.0f / 5040) + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  // n is in the low bits of `shifted`; in the exponent's place it multiplies by 2^n.
  return (Vec)((Ints)sum + ((Ints)shifted << 23));
}

inline void unary(const Unary& layer, Range range) {
  const Tensor& in = layer.input;
  switch (layer.function) {
    case Function::kClamp:
      return each_pixel(layer.output, range, [&](int o, int y, int x) {
        return clamp(load_at(in, o, y, x), layer.alpha, layer.beta);
      });
    case Function::kHardSigmoid:
      return each_pixel(layer.output, range, [&](int o, int y, int x) {
        const Pixel scaled = load_at(in, o, y, x) * filled(layer.alpha) + filled(layer.beta);
        return clamp(scaled, 0, 1);
      });
    case Function::kHardSwish:
      return each_pixel(layer.output, range, [&](int o, int y, int x) {
        const Pixel value = load_at(in, o, y, x);
        return value * clamp(value * filled(1.0f / 6) + filled(0.5f), 0, 1);
      });
    case Function::kSigmoid:
      return each_pixel(layer.output, range, [&](int o, int y, int x) {
        Pixel value = load_at(in, o, y, x);
        unroll<kParts>([&](auto i) __attribute__((always_inline)) {
          value.part[i.value] = 1.0f / (1.0f + exponential(-value.part[i.value]));
        });
        return value;
      });
  }
}

inline void binary(const Binary& layer, Range range) {
  const Tensor& right = layer.right;
  const bool one_pixel = right.height == 1 && right.width == 1;
  const bool add = layer.kind == Operator::kAdd;
  each_pixel(layer.output, range, [&](int o, int y, int x) {
    const Pixel a = load_at(layer.left, o, y, x);
    const Pixel b = !right.data ? filled(layer.value)
                    : one_pixel ? load_at(right, o, 0, 0)
                                : load_at(right, o, y, x);
    return clamp(add ? a + b : a * b, layer.low, layer.high);
  });
}

inline void softmax(const float* logits, float* output, int n, float temperature) {
  float largest = logits[0];
  for (int i = 1; i < n; ++i) largest = logits[i] > largest ? logits[i] : largest;
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    output[i] = __builtin_expf((logits[i] - largest) / temperature);
    sum += output[i];
  }
  for (int i = 0; i < n; ++i) output[i] /= sum;
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
