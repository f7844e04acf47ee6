// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Single kernels on numpy arrays. An engine does not come by here: it plans its memory once, and
// these copy at every call.

#include <pybind11/stl.h>

#include <cstdlib>
#include <tuple>
#include <utility>

#include "bindings.hpp"
#include "bindings_arrays.hpp"

using namespace pybind11::literals;

namespace sparse_split {
namespace {

const Kernels& kernels_of(const std::string& isa) { return known(find(isa.c_str()), isa); }

template <typename Layer>
void run(void (*kernel)(const Layer&, Range), const Layer& layer, int grain) {
  in_pieces(whole(layer.output), grain, [&](Range range) { kernel(layer, range); });
}

// Weights of a dense or block-sparse layer, packed.
struct Packed {
  std::vector<std::int32_t> sources;
  std::vector<float> bias;
  int width, count;
  Memory<float> weights;

  Packed(const Floats& weight, const std::optional<Floats>& bias_values,
         const std::optional<Integers>& blocks, int block_width, int inputs, bool planar,
         int kernel_h, int kernel_w, int shift)
      : bias(packed_vector(bias_values, side(weight, 0))),
        width(planar ? inputs : blocks ? block_width : dense_width(inputs)),
        count(checked_blocks(blocks, weight, width, inputs)),
        weights(conv_floats(side(weight, 0), count, width, kernel_h, kernel_w), shift) {
    sources.resize(std::size_t(blocks_of(side(weight, 0))) * count);
    pack_conv(weight.data(), blocks ? blocks->data() : nullptr, side(weight, 0), side(weight, 1),
              count, width, kernel_h, kernel_w, weights.data(), sources.data());
  }
};

// A convolution and all the memory that it needs.
class ConvLayer {
 public:
  ConvLayer(const std::string& isa, const Floats& x, const Floats& weight,
            const std::optional<Floats>& bias, const std::optional<Floats>& residual,
            const std::optional<Integers>& blocks, int width, Pair stride, Pair padding,
            Pair dilation, Limits limits, bool planar, int shift)
      : kernels_(kernels_of(isa)),
        input_(kernels_, x, padding, planar, shift),
        packed_(checked(weight, 4, "weight"), bias, blocks, width, side(x, 0), planar,
                side(weight, 2), side(weight, 3), shift),
        output_(side(weight, 0),
                output_side(side(x, 1), side(weight, 2), stride[0], padding[0], dilation[0]),
                output_side(side(x, 2), side(weight, 3), stride[1], padding[1], dilation[1]),
                {0, 0}, false, shift) {
    layer_.input = input_.tensor;
    layer_.output = output_.tensor;
    if (residual) {
      residual_.emplace(kernels_, *residual, Pair{0, 0}, false, shift);
      layer_.residual = residual_->tensor;
    }
    layer_.weights = packed_.weights.data();
    layer_.bias = packed_.bias.empty() ? nullptr : packed_.bias.data();
    layer_.sources = packed_.sources.data();
    layer_.count = packed_.count;
    layer_.width = packed_.width;
    layer_.kernel_h = side(weight, 2);
    layer_.kernel_w = side(weight, 3);
    std::tie(layer_.stride_h, layer_.stride_w) = std::pair(stride[0], stride[1]);
    std::tie(layer_.pad_h, layer_.pad_w) = std::pair(padding[0], padding[1]);
    std::tie(layer_.dilation_h, layer_.dilation_w) = std::pair(dilation[0], dilation[1]);
    std::tie(layer_.low, layer_.high) = std::pair(limits[0], limits[1]);
    layer_.planar = planar;
  }

  Floats run(int grain) {
    sparse_split::run(kernels_.conv, layer_, grain);
    return output_.array(kernels_);
  }

  std::vector<double> seconds(int samples, int calls) {
    return timed(samples, calls, [&] { kernels_.conv(layer_, whole(layer_.output)); });
  }

 private:
  const Kernels& kernels_;
  Image input_;
  Packed packed_;
  Image output_;
  std::optional<Image> residual_;
  Conv layer_;
};

Floats depthwise(const std::string& isa, const Floats& x, const Floats& weight,
                 const std::optional<Floats>& bias, const std::optional<Floats>& residual,
                 Pair stride, Pair padding, Pair dilation, Limits limits, int shift, int grain) {
  const Kernels& kernels = kernels_of(isa);
  const int channels = side(x, 0), kernel_h = side(weight, 2), kernel_w = side(weight, 3);
  const Image input(kernels, x, padding, false, shift);
  const Image output(
      channels, output_side(side(x, 1), kernel_h, stride[0], padding[0], dilation[0]),
      output_side(side(x, 2), kernel_w, stride[1], padding[1], dilation[1]), {0, 0}, false, shift);
  const std::vector<float> biases = packed_vector(bias, channels);
  std::vector<float> weights(std::size_t(blocks_of(channels)) * kernel_h * kernel_w * kBlock);
  pack_depthwise(weight.data(), channels, kernel_h, kernel_w, weights.data());
  std::optional<Image> added;
  if (residual) added.emplace(kernels, *residual);
  Depthwise layer;
  layer.input = input.tensor;
  layer.output = output.tensor;
  if (added) layer.residual = added->tensor;
  layer.weights = weights.data();
  layer.bias = bias ? biases.data() : nullptr;
  std::tie(layer.kernel_h, layer.kernel_w) = std::pair(kernel_h, kernel_w);
  std::tie(layer.stride_h, layer.stride_w) = std::pair(stride[0], stride[1]);
  std::tie(layer.pad_h, layer.pad_w) = std::pair(padding[0], padding[1]);
  std::tie(layer.dilation_h, layer.dilation_w) = std::pair(dilation[0], dilation[1]);
  std::tie(layer.low, layer.high) = std::pair(limits[0], limits[1]);
  run(kernels.depthwise, layer, grain);
  return output.array(kernels);
}

Floats linear(const std::string& isa, const Floats& x, const Floats& weight,
              const std::optional<Floats>& bias, const std::optional<Integers>& blocks, int width,
              const std::optional<Integers>& columns, Limits limits) {
  const Kernels& kernels = kernels_of(isa);
  const int inputs = side(checked(x, 1, "x"), 0), outputs = side(checked(weight, 2, "weight"), 0);
  std::vector<float> input(std::size_t(blocks_of(inputs)) * kBlock);
  std::vector<float> output(std::size_t(blocks_of(outputs)) * kBlock);
  pack_vector(x.data(), inputs, input.data());
  Linear layer;
  layer.input = input.data();
  layer.output = output.data();
  layer.outputs = outputs;
  std::tie(layer.low, layer.high) = std::pair(limits[0], limits[1]);
  const std::vector<float> biases = packed_vector(bias, outputs);
  layer.bias = bias ? biases.data() : nullptr;
  std::optional<Packed> packed;
  std::vector<float> values;
  std::vector<std::int32_t> places;
  if (columns) {
    const int fan_in = side(weight, 1);
    for (int i = 0; i < columns->size(); ++i) {
      if (columns->data()[i] < 0 || columns->data()[i] >= inputs) {
        throw std::invalid_argument("a column lies beyond the inputs");
      }
    }
    if (columns->size() != weight.size()) throw std::invalid_argument("a column per weight");
    values.resize(std::size_t(blocks_of(outputs)) * fan_in * kBlock);
    places.resize(values.size());
    pack_columns(weight.data(), columns->data(), outputs, fan_in, values.data(), places.data());
    layer.weights = values.data();
    layer.columns = places.data();
    layer.count = fan_in;
    layer.width = 1;
  } else {
    packed.emplace(weight, std::nullopt, blocks, width, inputs, false, 1, 1, 0);
    layer.weights = packed->weights.data();
    layer.sources = packed->sources.data();
    layer.count = packed->count;
    layer.width = packed->width;
  }
  for (int o = blocks_of(outputs); o-- > 0;) kernels.linear(layer, o, o + 1);
  return Floats(outputs, output.data());
}

Floats pool(const std::string& isa, const Floats& x, bool maximum, Pair kernel, Pair stride,
            Pair padding, Pair size, bool count_include_pad, int grain) {
  const Kernels& kernels = kernels_of(isa);
  const Image input(kernels, x), output(side(x, 0), size[0], size[1]);
  Pool layer;
  layer.input = input.tensor;
  layer.output = output.tensor;
  layer.kind = maximum ? Pooling::kMax : Pooling::kAverage;
  std::tie(layer.kernel_h, layer.kernel_w) = std::pair(kernel[0], kernel[1]);
  std::tie(layer.stride_h, layer.stride_w) = std::pair(stride[0], stride[1]);
  std::tie(layer.pad_h, layer.pad_w) = std::pair(padding[0], padding[1]);
  layer.count_include_pad = count_include_pad;
  run(kernels.pool, layer, grain);
  return output.array(kernels);
}

Floats global_average(const std::string& isa, const Floats& x) {
  const Kernels& kernels = kernels_of(isa);
  const Image input(kernels, x);
  std::vector<float> output(std::size_t(blocks_of(side(x, 0))) * kBlock);
  kernels.global_average(input.tensor, output.data(), 0, blocks_of(side(x, 0)));
  return Floats(side(x, 0), output.data());
}

Floats unary(const std::string& isa, const Floats& x, Function function, float alpha, float beta,
             int grain) {
  const Kernels& kernels = kernels_of(isa);
  const Image image(kernels, x);
  run(kernels.unary, Unary{image.tensor, image.tensor, function, alpha, beta}, grain);
  return image.array(kernels);
}

Floats binary(const std::string& isa, const Floats& left, const std::optional<Floats>& right,
              float value, Operator kind, Limits limits, int grain) {
  const Kernels& kernels = kernels_of(isa);
  const Image first(kernels, left);
  const Image output(side(left, 0), side(left, 1), side(left, 2));
  std::optional<Image> second;
  if (right) second.emplace(kernels, *right);
  run(kernels.binary,
      Binary{first.tensor, second ? second->tensor : Tensor{}, output.tensor, kind, value,
             limits[0], limits[1]},
      grain);
  return output.array(kernels);
}

Floats softmax(const std::string& isa, const Floats& logits, float temperature) {
  Floats output(logits.size());
  kernels_of(isa).softmax(logits.data(), output.mutable_data(), side(logits, 0), temperature);
  return output;
}

Floats concat(const std::string& isa, const std::vector<Floats>& parts) {
  const Kernels& kernels = kernels_of(isa);
  int channels = 0;
  for (const Floats& part : parts) channels += side(part, 0);
  const int height = side(parts.at(0), 1), width = side(parts[0], 2);
  const Image output(kernels, Floats(py::array::ShapeContainer{channels, height, width}));
  channels = 0;
  for (const Floats& part : parts) {
    const Image input(kernels, part);
    kernels.copy_channels(input.tensor, output.tensor, channels);
    channels += side(part, 0);
  }
  return output.array(kernels);
}

Floats pixel_shuffle(const std::string& isa, const Floats& x, int factor) {
  const Kernels& kernels = kernels_of(isa);
  const Image input(kernels, x);
  const Image output(side(x, 0) / (factor * factor), side(x, 1) * factor, side(x, 2) * factor);
  kernels.pixel_shuffle(input.tensor, output.tensor, factor);
  return output.array(kernels);
}

std::pair<py::bytes, bool> pack(const std::string& isa, const Floats& x, Packing kind,
                                const Floats& low, const Floats& step) {
  const Kernels& kernels = kernels_of(isa);
  if (low.size() != x.shape(0) || step.size() != x.shape(0)) {
    throw std::invalid_argument("a low and a step per channel");
  }
  const Image input(kernels, x);
  const int bits = kind == Packing::kHalf ? 16 : kind == Packing::kByte ? 8 : 4;
  std::string output((x.size() * bits + 7) / 8, '\0');
  const bool finite = kernels.pack({input.tensor, reinterpret_cast<std::uint8_t*>(output.data()),
                                    kind, low.data(), step.data()});
  return {py::bytes(output), finite};
}

// A name that stands for nothing is likely a slip; the fastest kernels are used in spite of it.
void check_environment() {
  const char* name = std::getenv("SPARSE_SPLIT_ISA");
  if (name == nullptr || find(name) != nullptr) return;
  std::string known;
  for (const Kernels* const* kernels = available(); *kernels; ++kernels) {
    known += std::string(known.empty() ? "" : ", ") + (*kernels)->name;
  }
  const std::string message = "SPARSE_SPLIT_ISA is '" + std::string(name) + "', expected one of " +
                              known + "; using " + best().name;
  if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 1) != 0) throw py::error_already_set();
}

}  // namespace

void bind_kernels(py::module_& native) {
  py::module_ module = native.def_submodule("kernels", "Single kernels, for tests and benchmarks.");
  check_environment();
  bind_int8(module);
  const Limits unlimited{-kInfinity, kInfinity};
  const Pair one{1, 1}, zero{0, 0};

  py::enum_<Function>(module, "Function")
      .value("CLAMP", Function::kClamp)
      .value("HARD_SIGMOID", Function::kHardSigmoid)
      .value("HARD_SWISH", Function::kHardSwish)
      .value("SIGMOID", Function::kSigmoid);
  py::enum_<Operator>(module, "Operator")
      .value("ADD", Operator::kAdd)
      .value("MULTIPLY", Operator::kMultiply);
  py::enum_<Packing>(module, "Packing")
      .value("HALF", Packing::kHalf)
      .value("BYTE", Packing::kByte)
      .value("NIBBLE", Packing::kNibble);

  module.def("available", [] {
    std::vector<std::string> names;
    for (const Kernels* const* kernels = available(); *kernels; ++kernels) {
      names.emplace_back((*kernels)->name);
    }
    return names;
  }, "Instruction sets that there are kernels for on this machine, fastest first.");
  module.def("best", [] { return std::string(best().name); },
             "The one in use: the fastest, or what SPARSE_SPLIT_ISA names.");
  module.def("peak_gmacs", [](const std::string& isa, double seconds) {
    const Kernels& kernels = kernels_of(isa);
    py::gil_scoped_release released;
    return peak_gmacs(kernels, seconds);
  }, "isa"_a, "seconds"_a = 0.2, "Multiply-adds per nanosecond of one thread, in registers only.");

  py::class_<ConvLayer>(module, "ConvLayer", "One convolution, dense or block-sparse.")
      .def(py::init<const std::string&, const Floats&, const Floats&, const std::optional<Floats>&,
                    const std::optional<Floats>&, const std::optional<Integers>&, int, Pair, Pair,
                    Pair, Limits, bool, int>(),
           "isa"_a, "x"_a, "weight"_a, py::kw_only(), "bias"_a = py::none(),
           "residual"_a = py::none(), "blocks"_a = py::none(), "width"_a = kBlock,
           "stride"_a = one, "padding"_a = zero, "dilation"_a = one, "limits"_a = unlimited,
           "planar"_a = false, "shift"_a = 0)
      .def("run", &ConvLayer::run, "grain"_a = 0, "The output (O, H, W), computed `grain` rows at "
           "a time, or at once.")
      .def("seconds", &ConvLayer::seconds, "samples"_a, "calls"_a,
           py::call_guard<py::gil_scoped_release>(),
           "Seconds of one run, `samples` times the mean of `calls`.");
  module.def("depthwise", &depthwise, "isa"_a, "x"_a, "weight"_a, py::kw_only(),
             "bias"_a = py::none(), "residual"_a = py::none(), "stride"_a = one,
             "padding"_a = zero, "dilation"_a = one, "limits"_a = unlimited, "shift"_a = 0,
             "grain"_a = 0);
  module.def("linear", &linear, "isa"_a, "x"_a, "weight"_a, py::kw_only(), "bias"_a = py::none(),
             "blocks"_a = py::none(), "width"_a = kBlock, "columns"_a = py::none(),
             "limits"_a = unlimited);
  module.def("pool", &pool, "isa"_a, "x"_a, py::kw_only(), "maximum"_a, "kernel"_a, "stride"_a,
             "padding"_a, "size"_a, "count_include_pad"_a = true, "grain"_a = 0);
  module.def("global_average", &global_average, "isa"_a, "x"_a);
  module.def("unary", &unary, "isa"_a, "x"_a, "function"_a, "alpha"_a = 0.0f, "beta"_a = 0.0f,
             "grain"_a = 0);
  module.def("binary", &binary, "isa"_a, "left"_a, "right"_a, py::kw_only(), "value"_a = 0.0f,
             "kind"_a = Operator::kAdd, "limits"_a = unlimited, "grain"_a = 0);
  module.def("softmax", &softmax, "isa"_a, "logits"_a, "temperature"_a = 1.0f);
  module.def("concat", &concat, "isa"_a, "parts"_a);
  module.def("pixel_shuffle", &pixel_shuffle, "isa"_a, "x"_a, "factor"_a);
  module.def("pack", &pack, "isa"_a, "x"_a, "kind"_a, "low"_a, "step"_a);
}

}  // namespace sparse_split
