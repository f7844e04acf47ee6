// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The operations of a program on integers of 8 bits.

#include "checks.hpp"

namespace sparse_split {

int Program::quantised(int tensor) {
  if (tensors_[tensor].codes) return tensor;
  const auto known = quantised_.find(tensor);
  if (known != quantised_.end()) return known->second;
  const Planned real = tensors_[tensor];
  require<NoKernel>(!real.planar, "an image in planes as codes");
  require(real.range >= 0, "the range of tensor " + to_string(tensor) + " was not measured");
  const int made = output(real.channels, real.height, real.width);
  tensors_[made].codes = true;
  tensors_[made].scale = scale_of(real.range, real.negative);
  Quantise work;
  work.scale = tensors_[made].scale;
  add(work, tensor, -1, made, "quantise");
  quantised_[tensor] = made;
  return made;
}

int Program::conv_int8(int x, const Array<float>& weight, const Array<float>& bias,
                       const Pattern& pattern, const Window& window, int residual, Clamp clamp,
                       float range, bool codes) {
  known(x, "the input", true);
  if (residual >= 0) known(residual, "the residual", true);
  const int source = quantised(x), added = residual < 0 ? -1 : quantised(residual);
  const Convolution layer = check_conv(source, weight, pattern, window, added);
  const Listing listing = list_inputs(weight, pattern, layer.inputs, 1);
  require<NoKernel>(listing.width % 4 == 0, "blocks of fewer than four inputs in 8 bits");
  const std::int64_t products =
      std::int64_t{1} * listing.count * listing.width * listing.kernel[0] * listing.kernel[1];
  require<NoKernel>(255 * 127 * products <= INT32_MAX,
                    "sums of " + to_string(products) + " products in 8 bits, which may overflow");
  keep_border(source, window.padding);
  const int made = output(layer.outputs, layer.height, layer.width);
  tensors_[made].negative = clamp.low < 0;
  measured(made, range);
  if (codes) {
    tensors_[made].codes = true;
    tensors_[made].scale = scale_of(range, clamp.low < 0);
  }
  ConvInt8 work;
  work.input_scale = tensors_[source].scale;
  if (added >= 0) work.residual_scale = tensors_[added].scale;
  work.output_scale = tensors_[made].scale;
  work.count = listing.count, work.width = listing.width;
  work.kernel_h = listing.kernel[0], work.kernel_w = listing.kernel[1];
  work.stride_h = window.stride[0], work.stride_w = window.stride[1];
  work.pad_h = window.padding[0], work.pad_w = window.padding[1];
  work.dilation_h = window.dilation[0], work.dilation_w = window.dilation[1];
  work.low = clamp.low, work.high = clamp.high;
  work.bias = packed_bias(bias, layer.outputs);
  const std::size_t rows = blocks_of(layer.outputs), lanes = rows * kBlock;
  const std::size_t bytes = conv_floats(layer.outputs, work.count, work.width, work.kernel_h,
                                        work.kernel_w);
  auto* packed = reinterpret_cast<std::int8_t*>(floats((bytes + 3) / 4));
  float* steps = floats(lanes);
  std::int32_t* sums = integers(lanes);
  std::int32_t* sources = integers(rows * work.count);
  pack_conv_int8(listing.weights, listing.blocks, layer.outputs, listing.fan_in, work.count,
                 work.width, work.kernel_h, work.kernel_w, packed, sources, steps, sums);
  work.weights = packed, work.weight_steps = steps, work.sums = sums, work.sources = sources;
  work.taps = kept(listing.taps);
  return add(work, source, added, made, "int8 conv " + layer.name, layer.macs, layer.weights / 4);
}

}  // namespace sparse_split
