// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Features to the payload's values, bit for bit as numpy makes them in link/codec.py.

#pragma once

#include "layout.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

typedef std::uint32_t Words __attribute__((vector_size(kLanes * sizeof(float))));

// Integers of 16 bits at most. Clamping before rounding gives what rounding before clamping does,
// as the limits are integers, and keeps values where adding 1.5 * 2^23 rounds to nearest, ties to
// even.
SPARSE_SPLIT_INLINE Words codes_of(Vec value, Vec low, Vec step, float levels) {
  const Vec zero{}, top = zero + levels;
  value = (value - low) / step;
  value = value < zero ? zero : value;
  value = top < value ? top : value;
  return (Words)(value + 12582912.0f) & 0xff;
}

// Float16 bits, rounded to nearest, ties to even; beyond its range the largest finite value.
SPARSE_SPLIT_INLINE Words half_of(Vec value) {
  const Vec top = Vec{} + 65504.0f;
  value = value < -top ? -top : value;
  value = top < value ? top : value;
  const Words bits = (Words)value;
  const Words sign = bits & 0x80000000u;
  const Words size = bits ^ sign;
  // Below 2^-14 a half counts units of 2^-24, and so does what follows 0.5 in a float.
  const Words small = (Words)((Vec)size + 0.5f) - 0x3f000000u;
  const Words normal = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
  return (sign >> 16) | (size < 0x38800000u ? small : normal);
}

inline bool pack(const Pack& task) {
  const Tensor& in = task.input;
  const std::ptrdiff_t plane = std::ptrdiff_t{in.height} * in.width;
  if (task.kind == Packing::kNibble) {
    __builtin_memset(task.output, 0, (in.channels * plane + 1) / 2);
  }
  Words odd{};  // values that are not finite: the difference to themselves is not a number
  for (int o = 0; o < blocks_of(in.channels); ++o) {
    const int used = in.channels - o * kBlock < kBlock ? in.channels - o * kBlock : kBlock;
    alignas(64) float low[kBlock] = {}, step[kBlock];
    for (int i = 0; i < kBlock; ++i) step[i] = 1;
    if (task.kind != Packing::kHalf) {
      __builtin_memcpy(low, task.low + o * kBlock, used * sizeof(float));
      __builtin_memcpy(step, task.step + o * kBlock, used * sizeof(float));
    }
    const Pixel lows = load(low), steps = load(step);
    for (int y = 0; y < in.height; ++y) {
      for (int x = 0; x < in.width; ++x) {
        const Pixel value = load(value_at(in, o * kBlock, y, x));
        alignas(64) std::uint32_t codes[kBlock];
        for (int p = 0; p < kParts; ++p) {
          const Vec difference = value.part[p] - value.part[p];
          odd |= (Words)(difference != difference);
          const Words part =
              task.kind == Packing::kHalf ? half_of(value.part[p])
              : codes_of(value.part[p], lows.part[p], steps.part[p],
                         task.kind == Packing::kByte ? 255 : 15);
          __builtin_memcpy(codes + p * kLanes, &part, sizeof(part));
        }
        std::ptrdiff_t place = o * kBlock * plane + std::ptrdiff_t{y} * in.width + x;
        for (int i = 0; i < used; ++i, place += plane) {
          switch (task.kind) {
            case Packing::kHalf:
              task.output[2 * place] = codes[i] & 0xff;
              task.output[2 * place + 1] = codes[i] >> 8;
              break;
            case Packing::kByte:
              task.output[place] = codes[i];
              break;
            case Packing::kNibble:
              task.output[place / 2] |= codes[i] << place % 2 * 4;
              break;
          }
        }
      }
    }
  }
  std::uint32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= odd[i];
  return any == 0;
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
