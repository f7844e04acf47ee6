// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Products of four bytes at a time, summed in integers of 32 bits.

#pragma once

#include "../int8.hpp"
#include "simd.hpp"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

typedef std::int32_t LooseInts
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

struct Sums {
  Ints part[kParts];
};

// sum[o] += x[0..3] * w[o][0..3], x without sign and w with it. kOffset is what is taken from x
// beforehand where the instruction knows signed factors only; the caller puts it right, once for
// all sums.
#if defined(__AVX512VNNI__)

constexpr int kOffset = 0;
SPARSE_SPLIT_INLINE Ints dot(Ints sum, std::uint32_t x, const std::int8_t* w) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(static_cast<int>(x)),
                                   _mm512_loadu_si512(w));
}

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int kOffset = 128;
SPARSE_SPLIT_INLINE Ints dot(Ints sum, std::uint32_t x, const std::int8_t* w) {
  const int8x16_t signed_x = vreinterpretq_s8_u32(vdupq_n_u32(x ^ 0x80808080u));
  return (Ints)vdotq_s32((int32x4_t)sum, vld1q_s8(w), signed_x);
}

#else

constexpr int kOffset = 0;
SPARSE_SPLIT_INLINE Ints dot(Ints sum, std::uint32_t x, const std::int8_t* w) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < 4; ++j) sum[i] += static_cast<int>(x >> 8 * j & 0xff) * w[4 * i + j];
  }
  return sum;
}

#endif

SPARSE_SPLIT_INLINE void accumulate_dot(Sums& sums, std::uint32_t x, const std::int8_t* w) {
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    sums.part[i.value] = dot(sums.part[i.value], x, w + i.value * kLanes * 4);
  });
}

SPARSE_SPLIT_INLINE std::uint32_t four(const std::uint8_t* from) {
  std::uint32_t value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

SPARSE_SPLIT_INLINE Sums load_sums(const std::int32_t* from) {
  Sums sums;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    sums.part[i.value] = *reinterpret_cast<const LooseInts*>(from + i.value * kLanes);
  });
  return sums;
}

// Codes as numbers, and numbers as codes: rounded to nearest, ties to even, by adding 1.5 * 2^23.
typedef std::uint8_t ByteLanes __attribute__((vector_size(kLanes)));

SPARSE_SPLIT_INLINE Pixel load_codes(const std::uint8_t* from, const Scale& scale) {
  Pixel pixel;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    ByteLanes bytes;
    __builtin_memcpy(&bytes, from + i.value * kLanes, sizeof(bytes));
    const Ints codes = __builtin_convertvector(bytes, Ints) - scale.zero;
    pixel.part[i.value] = __builtin_convertvector(codes, Vec) * scale.step;
  });
  return pixel;
}

// Codes of values from 0 to 255.
SPARSE_SPLIT_INLINE void store_codes(std::uint8_t* to, const Pixel& pixel) {
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    const Ints rounded = (Ints)(pixel.part[i.value] + 12582912.0f) & 0xff;
    const ByteLanes bytes = __builtin_convertvector(rounded, ByteLanes);
    __builtin_memcpy(to + i.value * kLanes, &bytes, sizeof(bytes));
  });
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
