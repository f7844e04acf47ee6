// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// What every operation checks when it is written into a program.

#pragma once

#include <string>
#include <vector>

#include "program.hpp"

namespace sparse_split {

constexpr int kMaxKernel = 15;
constexpr int kMaxStride = 8;
constexpr int kMaxSide = 1 << 16;
constexpr std::int64_t kMaxElements = 1 << 26;
constexpr std::int64_t kMaxArenaFloats = 1 << 28;
constexpr char kBare[] = "padding around a tensor that is also read as a vector";

using std::to_string;

template <typename Error = PlanError>
void require(bool holds, const std::string& message) {
  if (!holds) throw Error(message);
}

inline std::string text(const std::vector<int>& shape) {
  std::string joined;
  for (int side : shape) joined += (joined.empty() ? "" : ", ") + to_string(side);
  return "(" + joined + ")";
}

inline std::string by(const Pair& pair) { return to_string(pair[0]) + "x" + to_string(pair[1]); }

template <typename T>
void expect_shape(const Array<T>& array, const std::vector<int>& shape, const char* what) {
  require(array.shape == shape, std::string(what) + " has shape " + text(array.shape) +
                                    ", expected " + text(shape));
}

// Which inputs a layer multiplies, as pack_conv() takes it.
struct Listing {
  const float* weights = nullptr;  // [O][fan_in][...]
  const std::int32_t* blocks = nullptr;
  int fan_in = 0, count = 0, width = kBlock;
  Pair kernel{1, 1};  // of each source: 1x1 where there are taps
  std::vector<float> own;  // what the pointers show to, where it is not the caller's
  std::vector<std::int32_t> own_blocks;
  std::vector<std::int32_t> taps;  // as in Conv; empty where all taps read the same blocks

  Listing() = default;
  Listing(Listing&&) = default;
};

// Checks weight (O, fan-in) or (O, fan-in, kh, kw) and pattern of a layer of so many inputs.
Listing list_inputs(const Array<float>& weight, const Pattern& pattern, int inputs, int groups);

}  // namespace sparse_split
