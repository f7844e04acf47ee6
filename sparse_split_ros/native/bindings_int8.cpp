// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Single kernels on integers of 8 bits, by numpy arrays of what the codes stand for.

#include <pybind11/stl.h>

#include <tuple>
#include <utility>

#include "bindings.hpp"
#include "bindings_arrays.hpp"
#include "int8.hpp"

using namespace pybind11::literals;

namespace sparse_split {
namespace {

const Int8Kernels& kernels_of(const std::string& isa) { return known(find_int8(isa.c_str()), isa); }

// The largest value of a tensor, and whether it has negative ones.
using Span = std::pair<float, bool>;

Scale scale_of(const Span& span) { return sparse_split::scale_of(span.first, span.second); }

// An array (C, H, W) as codes.
struct Coded : Held<std::uint8_t> {
  Scale scale;

  Coded(const Int8Kernels& kernels, const Floats& values, const Span& span, Pair border, int shift)
      : Held(side(checked(values, 3, "an image"), 0), side(values, 1), side(values, 2), border,
             false, shift),
        scale(scale_of(span)) {
    const Image real(best(), values);
    kernels.quantise(real.tensor, tensor, scale, whole(tensor));
    kernels.fill_border(tensor, border[0], border[1], scale.zero);
  }
};

Floats real_values(const Int8Kernels& kernels, const Codes& codes, Scale scale) {
  const Image real(codes.channels, codes.height, codes.width);
  kernels.dequantise(codes, scale, real.tensor, whole(codes));
  return real.array(best());
}

// A convolution. Its output is real where `output` is left out.
class Int8Layer {
 public:
  Int8Layer(const std::string& isa, const Floats& x, const Floats& weight, const Span& input,
            const std::optional<Span>& output, const std::optional<Floats>& bias,
            const std::optional<Floats>& residual, const std::optional<Integers>& blocks, int width,
            Pair stride, Pair padding, Pair dilation, Limits limits, int shift)
      : kernels_(kernels_of(isa)),
        input_(kernels_, x, input, padding, shift),
        bias_(packed_vector(bias, side(checked(weight, 4, "weight"), 0))) {
    const int outputs = side(weight, 0);
    layer_.input = input_.tensor;
    layer_.input_scale = input_.scale;
    layer_.kernel_h = side(weight, 2);
    layer_.kernel_w = side(weight, 3);
    std::tie(layer_.stride_h, layer_.stride_w) = std::pair(stride[0], stride[1]);
    std::tie(layer_.pad_h, layer_.pad_w) = std::pair(padding[0], padding[1]);
    std::tie(layer_.dilation_h, layer_.dilation_w) = std::pair(dilation[0], dilation[1]);
    std::tie(layer_.low, layer_.high) = std::pair(limits[0], limits[1]);

    layer_.width = blocks ? width : dense_width(side(x, 0));
    layer_.count = checked_blocks(blocks, weight, layer_.width, side(x, 0));
    weights_.resize(
        conv_floats(outputs, layer_.count, layer_.width, layer_.kernel_h, layer_.kernel_w));
    sources_.resize(std::size_t(blocks_of(outputs)) * layer_.count);
    steps_.resize(std::size_t(blocks_of(outputs)) * kBlock);
    sums_.resize(steps_.size());
    pack_conv_int8(weight.data(), blocks ? blocks->data() : nullptr, outputs, side(weight, 1),
                   layer_.count, layer_.width, layer_.kernel_h, layer_.kernel_w, weights_.data(),
                   sources_.data(), steps_.data(), sums_.data());
    layer_.weights = weights_.data();
    layer_.sources = sources_.data();
    layer_.weight_steps = steps_.data();
    layer_.sums = sums_.data();
    layer_.bias = bias ? bias_.data() : nullptr;

    const int height =
        output_side(side(x, 1), layer_.kernel_h, stride[0], padding[0], dilation[0]);
    const int out_width =
        output_side(side(x, 2), layer_.kernel_w, stride[1], padding[1], dilation[1]);
    if (residual) {
      const float* values = residual->data();
      const Span span{*std::max_element(values, values + residual->size()) + 1, true};
      residual_.emplace(kernels_, *residual, span, Pair{0, 0}, shift);
      layer_.residual = residual_->tensor;
      layer_.residual_scale = residual_->scale;
    }
    if (output) {
      layer_.output_scale = scale_of(*output);
      layer_.output = codes_.emplace(outputs, height, out_width, Pair{0, 0}, false, shift).tensor;
    } else {
      layer_.real = real_.emplace(outputs, height, out_width, Pair{0, 0}, false, shift).tensor;
    }
  }

  Floats run(int grain) {
    in_pieces(whole(layer_), grain, [&](Range range) { kernels_.conv(layer_, range); });
    return result();
  }
  std::vector<double> seconds(int samples, int calls) {
    return timed(samples, calls, [&] { kernels_.conv(layer_, whole(layer_)); });
  }

  // What the kernels saw.
  Floats x() const { return real_values(kernels_, input_.tensor, input_.scale); }
  std::optional<Floats> residual() const {
    if (!residual_) return std::nullopt;
    return real_values(kernels_, residual_->tensor, residual_->scale);
  }
  float step() const { return layer_.output_scale.step; }

 private:
  Floats result() const {
    if (codes_) return real_values(kernels_, codes_->tensor, layer_.output_scale);
    return real_->array(best());
  }

  const Int8Kernels& kernels_;
  Coded input_;
  std::vector<float> bias_, steps_;
  std::vector<std::int8_t> weights_;
  std::vector<std::int32_t> sources_, sums_;
  std::optional<Coded> residual_;
  std::optional<Held<std::uint8_t>> codes_;
  std::optional<Image> real_;
  ConvInt8 layer_;
};

Floats rounded(const std::string& isa, const Floats& x, const Span& span) {
  const Int8Kernels& kernels = kernels_of(isa);
  const Coded codes(kernels, x, span, {0, 0}, 0);
  return real_values(kernels, codes.tensor, codes.scale);
}

}  // namespace

void bind_int8(py::module_& kernels) {
  py::module_ module = kernels.def_submodule("int8", "Kernels on integers of 8 bits.");
  const Limits unlimited{-std::numeric_limits<float>::infinity(),
                         std::numeric_limits<float>::infinity()};
  const Pair one{1, 1}, zero{0, 0};

  module.def("available", [] {
    std::vector<std::string> names;
    for (const Int8Kernels* const* table = available_int8(); *table; ++table) {
      names.emplace_back((*table)->name);
    }
    return names;
  });
  module.def("fast", [] { return best_int8().fast; },
             "Whether bytes are faster than float32 on this machine.");
  py::class_<Int8Layer>(module, "Layer", "One convolution, dense or block-sparse.")
      .def(py::init<const std::string&, const Floats&, const Floats&, const Span&,
                    const std::optional<Span>&, const std::optional<Floats>&,
                    const std::optional<Floats>&, const std::optional<Integers>&, int, Pair, Pair,
                    Pair, Limits, int>(),
           "isa"_a, "x"_a, "weight"_a, "input"_a, "output"_a = py::none(), py::kw_only(),
           "bias"_a = py::none(), "residual"_a = py::none(), "blocks"_a = py::none(),
           "width"_a = kBlock, "stride"_a = one, "padding"_a = zero, "dilation"_a = one,
           "limits"_a = unlimited, "shift"_a = 0)
      .def("run", &Int8Layer::run, "grain"_a = 0)
      .def("seconds", &Int8Layer::seconds, "samples"_a, "calls"_a,
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("x", &Int8Layer::x)
      .def_property_readonly("residual", &Int8Layer::residual)
      .def_property_readonly("step", &Int8Layer::step);
  module.def("rounded", &rounded, "isa"_a, "x"_a, "span"_a, "To codes and back.");
}

}  // namespace sparse_split
