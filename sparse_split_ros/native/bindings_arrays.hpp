// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Numpy arrays in torch's layout, (C, H, W), as the kernels want them, for tests and benchmarks.

#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace sparse_split {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Integers = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using Pair = std::array<int, 2>;
using Limits = std::array<float, 2>;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Table>
const Table& known(const Table* table, const std::string& isa) {
  if (table == nullptr) {
    throw std::invalid_argument("no kernels '" + isa + "' in this build, for this machine");
  }
  return *table;
}

inline int side(const py::array& array, int axis) { return static_cast<int>(array.shape(axis)); }

template <typename Array>
const Array& checked(const Array& array, int dimensions, const char* what) {
  if (array.ndim() != dimensions) {
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(array.ndim()) +
                                " dimensions, expected " + std::to_string(dimensions));
  }
  return array;
}

// Values that begin `shift` behind an aligned place. Real ones are NaN at first, so that a kernel
// that reads what it should not shows it.
template <typename T>
class Memory {
 public:
  Memory(std::size_t count, int shift)
      : values_(count + kAlignment / sizeof(T) + shift, std::numeric_limits<T>::quiet_NaN()) {
    const std::size_t beyond = reinterpret_cast<std::size_t>(values_.data()) % kAlignment;
    begin_ = (kAlignment - beyond) % kAlignment / sizeof(T) + shift;
  }
  T* data() { return values_.data() + begin_; }

 private:
  std::vector<T> values_;
  std::size_t begin_;
};

// An image in memory of its own, as an arena would hold it.
template <typename T>
class Held {
 public:
  Held(int channels, int height, int width, Pair border = {0, 0}, bool planar = false,
       int shift = 0)
      : memory_(std::size_t(planar ? channels : blocks_of(channels) * kBlock) *
                    (height + 2 * border[0]) * (width + 2 * border[1]),
                shift) {
    const int pixel = planar ? 1 : kBlock;
    tensor.channels = channels;
    tensor.height = height;
    tensor.width = width;
    tensor.row = std::ptrdiff_t{width + 2 * border[1]} * pixel;
    tensor.block = tensor.row * (height + 2 * border[0]);
    tensor.data = memory_.data() + border[0] * tensor.row + border[1] * pixel;
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  Blocked<T> tensor;

 private:
  Memory<T> memory_;
};

class Image : public Held<float> {
 public:
  using Held::Held;

  // The values of an array (C, H, W), with a border of zeros.
  Image(const Kernels& kernels, const Floats& values, Pair border = {0, 0}, bool planar = false,
        int shift = 0)
      : Held(side(checked(values, 3, "an image"), 0), side(values, 1), side(values, 2), border,
             planar, shift) {
    kernels.import_planes(values.data(), tensor, planar);
    kernels.fill_border(tensor, border[0], border[1], planar);
  }

  // As (C, H, W). Channels beyond the last one must be zero: the next layer reads them as such.
  Floats array(const Kernels& kernels) const {
    for (int c = tensor.channels; c < blocks_of(tensor.channels) * kBlock; ++c) {
      for (int pixel = 0; pixel < tensor.height * tensor.width; ++pixel) {
        if (tensor.data[c / kBlock * tensor.block + pixel * kBlock + c % kBlock] != 0) {
          throw std::runtime_error("channel " + std::to_string(c) + " beyond the last is not 0");
        }
      }
    }
    Floats values({tensor.channels, tensor.height, tensor.width});
    kernels.export_planes(tensor, values.mutable_data());
    return values;
  }
};

inline int output_side(int input, int kernel, int stride, int padding, int dilation) {
  return (input + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

// Calls kernel(range) on pieces of one block and `grain` rows, the last first, as threads might
// finish; at once where `grain` is 0.
template <typename F>
void in_pieces(Range all, int grain, const F& kernel) {
  if (grain == 0) return kernel(all);
  for (int o = all.block_end; o-- > 0;) {
    for (int y = (all.row_end - 1) / grain * grain; y >= 0; y -= grain) {
      kernel(Range{o, o + 1, y, std::min(y + grain, all.row_end)});
    }
  }
}

// Seconds of one call: `samples` times the mean of `calls` of them.
template <typename F>
std::vector<double> timed(int samples, int calls, const F& call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> taken;
  for (int sample = 0; sample < samples; ++sample) {
    const auto begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    taken.push_back(std::chrono::duration<double>(Clock::now() - begin).count() / calls);
  }
  return taken;
}

inline std::vector<float> packed_vector(const std::optional<Floats>& values, int n) {
  if (!values) return {};
  if (values->size() != n) throw std::invalid_argument("a bias per output is expected");
  std::vector<float> packed(blocks_of(n) * kBlock);
  pack_vector(values->data(), n, packed.data());
  return packed;
}

// Checks that blocks (output blocks, count) lie within the inputs, and returns how many each output
// block has; without them, how many of `width` a dense layer has.
inline int checked_blocks(const std::optional<Integers>& blocks, const Floats& weight, int width,
                          int inputs) {
  if (!blocks) return (side(weight, 1) + width - 1) / width;
  const int count = side(checked(*blocks, 2, "blocks"), 1);
  if (blocks->shape(0) != blocks_of(side(weight, 0)) || side(weight, 1) != count * width) {
    throw std::invalid_argument("blocks do not fit the weight");
  }
  for (py::ssize_t i = 0; i < blocks->size(); ++i) {
    if (blocks->data()[i] < 0 || (blocks->data()[i] + 1) * width > blocks_of(inputs) * kBlock) {
      throw std::invalid_argument("a block lies beyond the inputs");
    }
  }
  return count;
}

}  // namespace sparse_split
