// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of the kernels, for the instruction set that the including file names.

#pragma once

#include "conv.hpp"
#include "depthwise.hpp"
#include "elementwise.hpp"
#include "layout.hpp"
#include "linear.hpp"
#include "pack.hpp"
#include "pool.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Multiplies and adds in as many registers as a convolution has sums, and says how many times.
inline std::int64_t spin(std::int64_t rounds) {
  Pixel sum[kTile];
  volatile float seed = 0.5f;
  const Pixel factor = filled(seed), term = filled(seed);
  unroll<kTile>([&](auto i) __attribute__((always_inline)) {
    unroll<kParts>([&](auto p) __attribute__((always_inline)) {
      // All different, or the compiler would compute equal ones once.
      sum[i.value].part[p.value] = Vec{} + (seed + i.value * kParts + p.value);
    });
  });
  for (std::int64_t round = 0; round < rounds; ++round) {
    unroll<kTile>([&](auto i) __attribute__((always_inline)) {
      unroll<kParts>([&](auto p) __attribute__((always_inline)) {
        Vec& part = sum[i.value].part[p.value];
        part = part * factor.part[p.value] + term.part[p.value];
      });
    });
  }
  Pixel total = filled(0);
  unroll<kTile>([&](auto i) __attribute__((always_inline)) { total = total + sum[i.value]; });
  float values[kBlock];
  store(values, total);
  for (float value : values) seed = value;
  return rounds * kTile * kBlock;
}

constexpr Kernels kTable = {
    SPARSE_SPLIT_NAME, conv,          depthwise,     linear,        pool,
    global_average,    unary,         binary,        softmax,       finite,
    fill_border,       import_planes, export_planes, copy_channels, pixel_shuffle,
    pack,              spin,          tile_rows,
};

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
