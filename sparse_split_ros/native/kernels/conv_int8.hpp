// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Convolution and linear layers of bytes: conv.hpp with four inputs to a multiplication.

#pragma once

#include "conv.hpp"
#include "dot.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// What is constant over the pixels of a block of outputs. From sums of codes to codes of the output
// it is one multiplication and one addition: all is held in units of the output's step.
struct Finish {
  Sums start;
  Pixel factor, bias;
  Scale residual;
  float low, high;

  Finish(const ConvInt8& layer, int o) : start(load_sums(layer.sums + o * kBlock)) {
    const bool codes = layer.output.data != nullptr;
    const float unit = codes ? 1 / layer.output_scale.step : 1;
    const float zero = codes ? static_cast<float>(layer.output_scale.zero) : 0;
    // Sums of weight * code become sums of weight * (code - zero).
    for (Ints& part : start.part) part *= kOffset - layer.input_scale.zero;
    factor = load(layer.weight_steps + o * kBlock) * filled(layer.input_scale.step * unit);
    bias = filled(zero);
    if (layer.bias) accumulate(bias, load(layer.bias + o * kBlock), unit);
    residual = {layer.residual_scale.step * unit, layer.residual_scale.zero};
    low = layer.low * unit + zero;
    high = layer.high * unit + zero;
    if (codes) {
      low = low > 0 ? low : 0;
      high = high < 255 ? high : 255;
    }
  }
};

SPARSE_SPLIT_INLINE void finish(const ConvInt8& layer, const Finish& finish, const Sums& sums,
                                int o, int y, int x) {
  Pixel value = finish.bias;
  unroll<kParts>([&](auto i) __attribute__((always_inline)) {
    value.part[i.value] +=
        __builtin_convertvector(sums.part[i.value], Vec) * finish.factor.part[i.value];
  });
  const std::ptrdiff_t place = std::ptrdiff_t{x} * kBlock;
  if (const Codes& codes = layer.residual; codes.data) {
    value = value +
            load_codes(codes.data + o * codes.block + y * codes.row + place, finish.residual);
  }
  value = clamp(value, finish.low, finish.high);
  if (const Codes& codes = layer.output; codes.data) {
    store_codes(codes.data + o * codes.block + y * codes.row + place, value);
  } else {
    const Tensor& real = layer.real;
    store(real.data + o * real.block + y * real.row + place, value);
  }
}

inline void finish_tile(const ConvInt8& layer, const Finish& constant, const Sums* results,
                        int rows, int columns, int o, int y, int x) {
  for (int r = 0; r < rows; ++r) {
    for (int q = 0; q < columns; ++q) {
      finish(layer, constant, results[r * columns + q], o, y + r, x + q);
    }
  }
}

// One tile, whose first output is at row y and column x of block o.
template <int ROWS, int COLUMNS, int STEP>
void conv_int8_tile(const ConvInt8& layer, const Finish& constant, int o, int y, int x) {
  Sums sum[ROWS][COLUMNS];
  unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
    unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
      sum[r.value][q.value] = constant.start;
    });
  });
  const Codes& in = layer.input;
  const std::ptrdiff_t step = STEP ? STEP : std::ptrdiff_t{layer.stride_w} * kBlock;
  const std::ptrdiff_t below = layer.stride_h * in.row;
  const std::uint8_t* corner = in.data + (y * layer.stride_h - layer.pad_h) * in.row +
                               std::ptrdiff_t{x * layer.stride_w - layer.pad_w} * kBlock;
  const std::int32_t* sources = layer.sources + std::ptrdiff_t{o} * layer.count;
  const std::int8_t* weights = layer.weights + std::ptrdiff_t{o} * layer.count * layer.kernel_h *
                                                   layer.kernel_w * layer.width * kBlock;
  for (int k = 0; k < layer.count; ++k) {
    const std::uint8_t* block =
        corner + sources[k] / kBlock * in.block + sources[k] % kBlock;
    if (layer.taps) block += tap_offset(layer, in.row, layer.taps[k]);
    for (int i = 0; i < layer.kernel_h; ++i) {
      for (int j = 0; j < layer.kernel_w; ++j) {
        const std::uint8_t* from[ROWS];
        unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
          from[r.value] = block + i * layer.dilation_h * in.row +
                          std::ptrdiff_t{j * layer.dilation_w} * kBlock + r.value * below;
        });
        for (int c = 0; c < layer.width; c += 4) {
          unroll<ROWS>([&](auto r) __attribute__((always_inline)) { keep(from[r.value]); });
          unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
            unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
              accumulate_dot(sum[r.value][q.value],
                             four(from[r.value] + q.value * step), weights);
            });
          });
          unroll<ROWS>([&](auto r) __attribute__((always_inline)) { from[r.value] += 4; });
          weights += 4 * kBlock;
        }
      }
    }
  }
  // By way of memory, so that the rest is compiled once and not for every register.
  Sums results[ROWS * COLUMNS];
  unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
    unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
      results[r.value * COLUMNS + q.value] = sum[r.value][q.value];
    });
  });
  finish_tile(layer, constant, results, ROWS, COLUMNS, o, y, x);
}

using ConvInt8TileFunction = void (*)(const ConvInt8&, const Finish&, int, int, int);

template <int ROWS, int COLUMNS, int STEP>
constexpr ConvInt8TileFunction conv_int8_tile_if_it_fits() {
  if constexpr (ROWS * COLUMNS <= kTile) {
    return conv_int8_tile<ROWS, COLUMNS, STEP>;
  } else {
    return nullptr;
  }
}

template <int STEP, typename>
struct ConvInt8Tiles;
template <int STEP, int... I>
struct ConvInt8Tiles<STEP, std::integer_sequence<int, I...>> {
  static constexpr ConvInt8TileFunction of[] = {
      conv_int8_tile_if_it_fits<I / kTile + 1, I % kTile + 1, STEP>()...};
};

template <int STEP, int MAX_ROWS>
void conv_int8_tiles(const ConvInt8& layer, Range range) {
  using Tiles = ConvInt8Tiles<STEP, std::make_integer_sequence<int, MAX_ROWS * kTile>>;
  const Cut cuts = cut(layer.output.data ? layer.output.width : layer.real.width, MAX_ROWS);
  for (int o = range.block; o < range.block_end; ++o) {
    const Finish constant(layer, o);
    for (int y = range.row; y < range.row_end;) {
      const int rows = cuts.rows < range.row_end - y ? cuts.rows : range.row_end - y;
      for (int t = 0, x = 0; t < cuts.tiles; ++t) {
        const int columns = cuts.width - (t >= cuts.wide);
        Tiles::of[(rows - 1) * kTile + columns - 1](layer, constant, o, y, x);
        x += columns;
      }
      y += rows;
    }
  }
}

inline void conv_int8(const ConvInt8& layer, Range range) {
  switch (layer.stride_w) {
    case 1: return conv_int8_tiles<kBlock, kMaxRows>(layer, range);
    case 2: return conv_int8_tiles<2 * kBlock, kMaxRows>(layer, range);
    default: return conv_int8_tiles<0, 1>(layer, range);
  }
}

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
