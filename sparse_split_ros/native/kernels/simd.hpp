// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Sixteen channels of one pixel in registers, for the instruction set that this is compiled for.
//
// Everything below kernels/ lives in a namespace of its own per instruction set and takes nothing
// from the standard library but types: an inline function shared between translation units could
// otherwise be linked as compiled for instructions that this machine lacks.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "../kernels.hpp"

#define SPARSE_SPLIT_INLINE inline __attribute__((always_inline))

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

constexpr int kLanes = SPARSE_SPLIT_LANES;  // float32 values of a register
constexpr int kParts = kBlock / kLanes;     // registers of a block of channels

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));
// The same in memory, wherever it begins.
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

template <int I>
struct Index {
  static constexpr int value = I;
};

template <typename F, int... I>
SPARSE_SPLIT_INLINE void unroll_sequence(const F& f, std::integer_sequence<int, I...>) {
  (f(Index<I>{}), ...);
}

// f(Index<0>), ..., f(Index<N - 1>), written out. Accumulators stay in registers only where every
// index is a constant.
template <int N, typename F>
SPARSE_SPLIT_INLINE void unroll(const F& f) {
  unroll_sequence(f, std::make_integer_sequence<int, N>{});
}

// Keeps a pointer in a register of its own: else the compiler would derive it from another one, anew
// for every use and with offsets that it loads from the stack.
template <typename T>
SPARSE_SPLIT_INLINE void keep(T*& pointer) {
  asm("" : "+r"(pointer));
}

struct Pixel {
  Vec part[kParts];
};

SPARSE_SPLIT_INLINE Vec load_lanes(const float* from) {
  return *reinterpret_cast<const Loose*>(from);
}
SPARSE_SPLIT_INLINE void store_lanes(float* to, Vec lanes) { *reinterpret_cast<Loose*>(to) = lanes; }

SPARSE_SPLIT_INLINE Pixel load(const float* from) {
  Pixel pixel;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    pixel.part[i.value] = load_lanes(from + i.value * kLanes);
  });
  return pixel;
}

SPARSE_SPLIT_INLINE void store(float* to, const Pixel& pixel) {
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    store_lanes(to + i.value * kLanes, pixel.part[i.value]);
  });
}

// a and b in turns: a[FIRST], b[FIRST], a[FIRST + 1], b[FIRST + 1] ...
template <int FIRST, int... I>
SPARSE_SPLIT_INLINE Vec in_turns(Vec a, Vec b, std::integer_sequence<int, I...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (FIRST + I / 2 + I % 2 * kLanes)...);
#else
  return __builtin_shuffle(a, b, Ints{(FIRST + I / 2 + I % 2 * kLanes)...});
#endif
}

// Rows to columns: after log2(n) rounds of taking row i and row i + n / 2 in turns.
SPARSE_SPLIT_INLINE void transpose(Vec (&rows)[kLanes]) {
  constexpr int kRounds = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
  unroll<kRounds>([&](auto) __attribute__((always_inline)) {
    Vec next[kLanes];
    unroll<kLanes / 2>([&](auto i) __attribute__((always_inline)) {
      const Vec a = rows[i.value], b = rows[i.value + kLanes / 2];
      next[2 * i.value] = in_turns<0>(a, b, kAll);
      next[2 * i.value + 1] = in_turns<kLanes / 2>(a, b, kAll);
    });
    unroll<kLanes>([&](auto i) __attribute__((always_inline)) { rows[i.value] = next[i.value]; });
  });
}

SPARSE_SPLIT_INLINE Pixel filled(float value) {
  Pixel pixel;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    pixel.part[i.value] = Vec{} + value;
  });
  return pixel;
}

// sum += a * b, where b is a pixel or one value for all channels.
SPARSE_SPLIT_INLINE void accumulate(Pixel& sum, const Pixel& a, const Pixel& b) {
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    sum.part[i.value] += a.part[i.value] * b.part[i.value];
  });
}
SPARSE_SPLIT_INLINE void accumulate(Pixel& sum, const Pixel& a, float b) {
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    sum.part[i.value] += a.part[i.value] * b;
  });
}

SPARSE_SPLIT_INLINE Pixel operator+(const Pixel& a, const Pixel& b) {
  Pixel sum;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    sum.part[i.value] = a.part[i.value] + b.part[i.value];
  });
  return sum;
}
SPARSE_SPLIT_INLINE Pixel operator*(const Pixel& a, const Pixel& b) {
  Pixel product;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    product.part[i.value] = a.part[i.value] * b.part[i.value];
  });
  return product;
}

// What is not a number stays one, whichever it is.
SPARSE_SPLIT_INLINE Pixel largest(const Pixel& a, const Pixel& b) {
  Pixel result;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    const auto &left = a.part[i.value], &right = b.part[i.value];
    result.part[i.value] = (left < right) | (right != right) ? right : left;
  });
  return result;
}
// In this order a value that is not a number stays one, as in torch.
SPARSE_SPLIT_INLINE Pixel larger(const Pixel& a, const Pixel& b) {
  Pixel result;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    result.part[i.value] = a.part[i.value] < b.part[i.value] ? b.part[i.value] : a.part[i.value];
  });
  return result;
}
SPARSE_SPLIT_INLINE Pixel smaller(const Pixel& a, const Pixel& b) {
  Pixel result;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    result.part[i.value] = b.part[i.value] < a.part[i.value] ? b.part[i.value] : a.part[i.value];
  });
  return result;
}
SPARSE_SPLIT_INLINE Pixel clamp(const Pixel& x, float low, float high) {
  return smaller(larger(x, filled(low)), filled(high));
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
