// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Convolution, dense and block-sparse.
//
// A tile of outputs, some rows by some columns of one block of 16 channels, stays in registers
// while the list of inputs passes: each weight vector is loaded once per tile and multiplied by one
// broadcast input value per pixel. The list is the pattern, so nothing is gathered or permuted, and
// a sparser layer is the same loop with fewer turns.

#pragma once

#include "simd.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

// Pixels of a tile: as many as leave a register for the weights and one for the input. (Sanitizers
// take minutes to compile large tiles, and see no more in them than in small ones.)
#ifdef SPARSE_SPLIT_TILE
constexpr int kTile = SPARSE_SPLIT_TILE;
#else
constexpr int kTile = kLanes == 16 ? 16 : kLanes == 8 ? 6 : SPARSE_SPLIT_REGISTERS == 32 ? 6 : 2;
#endif
constexpr int kMaxRows = kTile < 4 ? kTile : 4;

// From the corner of a window to a tap of it, in elements.
template <typename Layer>
SPARSE_SPLIT_INLINE std::ptrdiff_t tap_offset(const Layer& layer, std::ptrdiff_t row, int tap) {
  return tap / kTapRow * layer.dilation_h * row +
         std::ptrdiff_t{tap % kTapRow * layer.dilation_w} * kBlock;
}

// Where one tile of one block of outputs begins.
struct ConvTile {
  const float* input;  // of the window of its first pixel, channel 0; may be in the border
  float* output;
  const float* residual;
  const float* weights;
  const float* bias;
  const std::int32_t* sources;
};

__attribute__((noinline)) inline void finish_tile(const Conv& conv, const ConvTile& tile,
                                                  const Pixel* results, int rows, int columns) {
  for (int r = 0; r < rows; ++r) {
    float* output = tile.output + r * conv.output.row;
    const float* residual = tile.residual ? tile.residual + r * conv.residual.row : nullptr;
    for (int q = 0; q < columns; ++q) {
      Pixel value = *results++;
      if (residual) value = value + load(residual + q * kBlock);
      store(output + q * kBlock, clamp(value, conv.low, conv.high));
    }
  }
}

// STEP is the distance of the inputs of neighbouring outputs, where it is known at compile time.
// UNROLLED inputs of a block follow one another without a look at the loop.
template <int ROWS, int COLUMNS, int STEP, int UNROLLED, bool PLANAR>
void conv_tile(const Conv& conv, const ConvTile& tile) {
  Pixel sum[ROWS][COLUMNS];
  const Pixel bias = tile.bias ? load(tile.bias) : filled(0);
  unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
    unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) { sum[r.value][q.value] = bias; });
  });

  const std::ptrdiff_t pixel = PLANAR ? 1 : kBlock;
  const std::ptrdiff_t step = STEP ? STEP : conv.stride_w * pixel;
  const std::ptrdiff_t channel = PLANAR ? conv.input.block : 1;
  const std::ptrdiff_t below = conv.stride_h * conv.input.row;
  const float* weights = tile.weights;
  for (int k = 0; k < conv.count; ++k) {
    const std::ptrdiff_t source = tile.sources[k];
    const float* block =
        PLANAR ? tile.input : tile.input + source / kBlock * conv.input.block + source % kBlock;
    if (conv.taps) block += tap_offset(conv, conv.input.row, conv.taps[k]);
    for (int i = 0; i < conv.kernel_h; ++i) {
      for (int j = 0; j < conv.kernel_w; ++j) {
        const float* x[ROWS];
        unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
          x[r.value] = block + i * conv.dilation_h * conv.input.row +
                       j * conv.dilation_w * pixel + r.value * below;
        });
        for (int c = 0; c < conv.width; c += UNROLLED) {
          unroll<ROWS>([&](auto r) __attribute__((always_inline)) { keep(x[r.value]); });
          unroll<UNROLLED>([&](auto u) __attribute__((always_inline)) {
            const Pixel w = load(weights + u.value * kBlock);
            unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
              unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
                accumulate(sum[r.value][q.value], w, x[r.value][q.value * step + u.value]);
              });
            });
          });
          weights += UNROLLED * kBlock;
          unroll<ROWS>([&](auto r)
                           __attribute__((always_inline)) { x[r.value] += UNROLLED * channel; });
        }
      }
    }
  }

  // By way of memory, so that the rest is compiled once and not for every register.
  Pixel results[ROWS * COLUMNS];
  unroll<ROWS>([&](auto r) __attribute__((always_inline)) {
    unroll<COLUMNS>([&](auto q) __attribute__((always_inline)) {
      results[r.value * COLUMNS + q.value] = sum[r.value][q.value];
    });
  });
  finish_tile(conv, tile, results, ROWS, COLUMNS);
}

using ConvTileFunction = void (*)(const Conv&, const ConvTile&);

template <int ROWS, int COLUMNS, int STEP, int UNROLLED, bool PLANAR>
constexpr ConvTileFunction conv_tile_if_it_fits() {
  if constexpr (ROWS * COLUMNS <= kTile) {
    return conv_tile<ROWS, COLUMNS, STEP, UNROLLED, PLANAR>;
  } else {
    return nullptr;
  }
}

// The tile functions of one STEP, at [(rows - 1) * kTile + columns - 1].
template <int STEP, int UNROLLED, bool PLANAR, typename>
struct ConvTiles;
template <int STEP, int UNROLLED, bool PLANAR, int... I>
struct ConvTiles<STEP, UNROLLED, PLANAR, std::integer_sequence<int, I...>> {
  static constexpr ConvTileFunction of[] = {
      conv_tile_if_it_fits<I / kTile + 1, I % kTile + 1, STEP, UNROLLED, PLANAR>()...};
};

// How an output is cut: `columns` tiles across, of `width` or, the last ones, of one less.
struct Cut {
  int tiles, wide, width, rows;
};

inline Cut cut(int output_width, int max_rows) {
  const int tiles = (output_width + kTile - 1) / kTile;
  const int width = (output_width + tiles - 1) / tiles;
  const int rows = kTile / width < max_rows ? kTile / width : max_rows;
  return {tiles, output_width - tiles * (width - 1), width, rows};
}

template <int STEP, int UNROLLED, bool PLANAR, int MAX_ROWS>
void conv_tiles(const Conv& conv, Range range) {
  using Counter = std::make_integer_sequence<int, MAX_ROWS * kTile>;
  using Tiles = ConvTiles<STEP, UNROLLED, PLANAR, Counter>;
  const Tensor& in = conv.input;
  const Tensor& out = conv.output;
  const std::ptrdiff_t pixel = PLANAR ? 1 : kBlock;
  const std::ptrdiff_t weights =
      std::ptrdiff_t{conv.count} * conv.kernel_h * conv.kernel_w * conv.width * kBlock;
  const float* corner = in.data - conv.pad_h * in.row - conv.pad_w * pixel;
  const Cut cuts = cut(out.width, MAX_ROWS);
  for (int o = range.block; o < range.block_end; ++o) {
    for (int y = range.row; y < range.row_end;) {
      const int rows = cuts.rows < range.row_end - y ? cuts.rows : range.row_end - y;
      for (int t = 0, x = 0; t < cuts.tiles; ++t) {
        const int columns = cuts.width - (t >= cuts.wide);
        const std::ptrdiff_t place = std::ptrdiff_t{x} * kBlock;
        Tiles::of[(rows - 1) * kTile + columns - 1](
            conv, {corner + y * conv.stride_h * in.row + x * conv.stride_w * pixel,
                   out.data + o * out.block + y * out.row + place,
                   conv.residual.data ? conv.residual.data + o * conv.residual.block +
                                            y * conv.residual.row + place
                                      : nullptr,
                   conv.weights + o * weights, conv.bias ? conv.bias + o * kBlock : nullptr,
                   conv.sources + std::ptrdiff_t{o} * conv.count});
        x += columns;
      }
      y += rows;
    }
  }
}

template <int UNROLLED>
void conv_blocks(const Conv& conv, Range range) {
  switch (conv.stride_w) {
    case 1: return conv_tiles<kBlock, UNROLLED, false, kMaxRows>(conv, range);
    case 2: return conv_tiles<2 * kBlock, UNROLLED, false, kMaxRows>(conv, range);
    default: return conv_tiles<0, UNROLLED, false, 1>(conv, range);
  }
}

inline void conv(const Conv& conv, Range range) {
  if (conv.planar) {
    switch (conv.stride_w) {
      case 1: return conv_tiles<1, 1, true, 1>(conv, range);
      case 2: return conv_tiles<2, 1, true, 1>(conv, range);
      default: return conv_tiles<0, 1, true, 1>(conv, range);
    }
  }
  return conv.width % 4 ? conv_blocks<1>(conv, range) : conv_blocks<4>(conv, range);
}

inline int tile_rows(int output_width) { return cut(output_width, kMaxRows).rows; }

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
