// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The operations of a program, in float32.

#include <algorithm>
#include <cstring>

#include "checks.hpp"

namespace sparse_split {
namespace {

void check_window(const Window& window, int max_stride = kMaxStride) {
  for (int axis : {0, 1}) {
    const int kernel = window.kernel[axis], stride = window.stride[axis];
    const int padding = window.padding[axis], dilation = window.dilation[axis];
    require(kernel >= 1 && kernel <= kMaxSide && stride >= 1 && padding >= 0 && dilation >= 1,
            "a window of kernel " + to_string(kernel) + ", stride " + to_string(stride) +
                ", padding " + to_string(padding) + ", dilation " + to_string(dilation));
    require<NoKernel>(stride <= max_stride && dilation <= kMaxStride &&
                             padding <= dilation * (kernel - 1),
                         "stride " + to_string(stride) + ", dilation " + to_string(dilation) +
                             ", padding " + to_string(padding) + " of a kernel " +
                             to_string(kernel));
  }
}

// A grouped convolution as the blocks that each 16 outputs read: a run of neighbours, with zeros
// where a block belongs to another group.
Listing list_groups(const float* weight, int outputs, int inputs, int groups, int taps) {
  const int group_inputs = inputs / groups, group_outputs = outputs / groups;
  Listing made;
  made.width = group_inputs % 16 == 0 ? 16 : group_inputs % 8 == 0 ? 8 : 4;
  const int blocks = blocks_of(outputs), existing = (inputs + made.width - 1) / made.width;
  std::vector<int> first(blocks);
  for (int block = 0; block < blocks; ++block) {
    const int low = block * kBlock / group_outputs * group_inputs;
    const int last = std::min(outputs, (block + 1) * kBlock) - 1;
    const int high = (last / group_outputs + 1) * group_inputs;
    first[block] = low / made.width;
    made.count = std::max(made.count, (high + made.width - 1) / made.width - first[block]);
  }
  made.fan_in = made.count * made.width;
  require<NoKernel>(std::int64_t{1} * outputs * made.fan_in * taps <= kMaxArenaFloats,
                    to_string(groups) + " groups, which need too many zeros between them");
  made.own.assign(static_cast<std::size_t>(outputs) * made.fan_in * taps, 0.0f);
  for (int block = 0; block < blocks; ++block) {
    const int start = std::min(first[block], existing - made.count);
    for (int i = 0; i < made.count; ++i) made.own_blocks.push_back(start + i);
    for (int o = block * kBlock; o < std::min(outputs, (block + 1) * kBlock); ++o) {
      const int skipped = o / group_outputs * group_inputs - start * made.width;
      std::memcpy(&made.own[(static_cast<std::size_t>(o) * made.fan_in + skipped) * taps],
                  weight + static_cast<std::size_t>(o) * group_inputs * taps,
                  sizeof(float) * group_inputs * taps);
    }
  }
  made.weights = made.own.data();
  made.blocks = made.own_blocks.data();
  return made;
}

// Weight (O, fan-in, kh, kw) whose taps have blocks (taps, O / 16, fan-in / width) of their own, as
// a layer of one tap that reads all of them.
Listing list_taps(const Array<float>& weight, const Pattern& pattern) {
  const int outputs = weight.shape[0], fan_in = weight.shape[1], columns = weight.shape[3];
  const int taps = weight.shape[2] * columns, rows = outputs / kBlock;
  const int count = fan_in / pattern.width;
  Listing made;
  made.width = pattern.width;
  made.count = taps * count;
  made.fan_in = taps * fan_in;
  for (int tap = 0; tap < taps; ++tap) {
    made.taps.insert(made.taps.end(), count, tap / columns * kTapRow + tap % columns);
  }
  for (int row = 0; row < rows; ++row) {
    for (int tap = 0; tap < taps; ++tap) {
      const std::int32_t* blocks = pattern.blocks.data + (std::size_t(tap) * rows + row) * count;
      made.own_blocks.insert(made.own_blocks.end(), blocks, blocks + count);
    }
  }
  made.own.resize(std::size_t(outputs) * made.fan_in);
  for (int o = 0; o < outputs; ++o) {
    for (int j = 0; j < fan_in; ++j) {
      for (int tap = 0; tap < taps; ++tap) {
        made.own[(std::size_t(o) * taps + tap) * fan_in + j] =
            weight.data[(std::size_t(o) * fan_in + j) * taps + tap];
      }
    }
  }
  made.weights = made.own.data();
  made.blocks = made.own_blocks.data();
  return made;
}

// Where value `index` of a [C][H][W] array lies in blocks.
int blocked_index(int index, int height, int width) {
  const int channel = index / (height * width), pixel = index % (height * width);
  return (channel / kBlock * height * width + pixel) * kBlock + channel % kBlock;
}

}  // namespace

Listing list_inputs(const Array<float>& weight, const Pattern& pattern, int inputs, int groups) {
  const int outputs = weight.shape[0], fan_in = weight.shape[1];
  int taps = 1;
  for (std::size_t axis = 2; axis < weight.shape.size(); ++axis) taps *= weight.shape[axis];
  require(outputs >= 1 && fan_in >= 1 && groups >= 1 && inputs % groups == 0 &&
              outputs % groups == 0,
          to_string(inputs) + " inputs and " + to_string(outputs) + " outputs in " +
              to_string(groups) + " groups");
  Listing listing;
  if (weight.shape.size() == 4) listing.kernel = {weight.shape[2], weight.shape[3]};
  if (pattern.blocks) {
    const int width = pattern.width;
    const bool tapped = pattern.blocks.shape.size() == 3 && weight.shape.size() == 4;
    require(width == 4 || width == 8 || width == 16 || (tapped && (width == 1 || width == 2)),
            "blocks of " + to_string(width) + " inputs, expected " + (tapped ? "1, 2, " : "") +
                "4, 8 or 16");
    require(groups == 1 && outputs % kBlock == 0 && fan_in % width == 0,
            "weight has shape " + text(weight.shape) + ", which is not in blocks of " +
                to_string(width) + " inputs and 16 outputs");
    std::vector<int> shape{outputs / kBlock, fan_in / width};
    if (tapped) shape.insert(shape.begin(), taps);
    expect_shape(pattern.blocks, shape, "blocks");
    for (int i = 0; i < outputs / kBlock * (fan_in / width) * (tapped ? taps : 1); ++i) {
      const std::int32_t block = pattern.blocks.data[i];
      require(block >= 0 && block < inputs / width,
              "blocks names block " + to_string(block) + " of " + to_string(inputs / width));
    }
    if (tapped) return list_taps(weight, pattern);
    listing.blocks = pattern.blocks.data;
    listing.width = width;
  } else {
    std::vector<int> shape = weight.shape;
    shape[1] = inputs / groups;
    expect_shape(weight, shape, "weight");
    if (groups > 1) {
      Listing made = list_groups(weight.data, outputs, inputs, groups, taps);
      made.kernel = listing.kernel;
      return made;
    }
    listing.width = dense_width(inputs);
  }
  listing.weights = weight.data;
  listing.fan_in = fan_in;
  listing.count = (fan_in + listing.width - 1) / listing.width;
  return listing;
}

const std::int32_t* Program::kept(const std::vector<std::int32_t>& values) {
  if (values.empty()) return nullptr;
  std::int32_t* copy = integers(values.size());
  std::copy(values.begin(), values.end(), copy);
  return copy;
}

const float* Program::packed_bias(const Array<float>& bias, int outputs) {
  if (!bias) return nullptr;
  expect_shape(bias, {outputs}, "bias");
  float* packed = floats(static_cast<std::size_t>(blocks_of(outputs)) * kBlock);
  pack_vector(bias.data, outputs, packed);
  return packed;
}

int Program::output_side(int side, const Window& window, int axis, bool ceil_mode) const {
  const int reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
  const int stride = window.stride[axis], padding = window.padding[axis];
  // Rounded up, the last window may reach beyond the padding by less than a stride: also the only
  // one, which is then larger than the padded image.
  const int room = side + 2 * padding - reach + (ceil_mode ? stride - 1 : 0);
  require(room >= 0, "a kernel that reaches over " + to_string(reach) + " of " + to_string(side) +
                         " pixels with padding " + to_string(padding));
  const int last = room / stride;
  // It counts if it begins inside the image or the padding before it.
  return ceil_mode && last * stride >= side + padding ? last : last + 1;
}

Program::Convolution Program::check_conv(int x, const Array<float>& weight,
                                         const Pattern& pattern, const Window& window,
                                         int residual) {
  const Planned& in = known(x, "the input", true);
  check_window(window);
  require(weight.shape.size() == 4, "weight has shape " + text(weight.shape) +
                                        ", expected (outputs, fan-in, height, width)");
  require(!pattern.columns, "a convolution has no columns");
  const auto [kernel_h, kernel_w] = window.kernel;
  require<NoKernel>(kernel_h <= kMaxKernel && kernel_w <= kMaxKernel,
                    "a kernel of " + by(window.kernel));
  const int outputs = weight.shape[0], fan_in = weight.shape[1];
  expect_shape(weight, {outputs, fan_in, kernel_h, kernel_w}, "weight");
  Convolution made{in.channels, outputs, output_side(in.height, window, 0),
                   output_side(in.width, window, 1)};
  if (residual >= 0) {
    const Planned& added = known(residual, "the residual", true);
    require<NoKernel>(!added.planar && added.channels == outputs && added.height == made.height &&
                added.width == made.width,
            "the residual is " + text({added.channels, added.height, added.width}) +
                ", the output " + text({outputs, made.height, made.width}));
  }
  made.weights = std::int64_t{1} * outputs * fan_in * kernel_h * kernel_w;
  require(made.weights <= kMaxArenaFloats, "weight has too many values");
  made.macs = made.weights * made.height * made.width;
  made.name = by(window.kernel) + "/" + to_string(window.stride[0]) + " " +
              to_string(in.channels) + ">" + to_string(outputs) + " at " +
              to_string(made.height) + "x" + to_string(made.width);
  if (pattern.blocks) {
    made.name += ", " + to_string(fan_in) + " in blocks of " + to_string(pattern.width);
  }
  return made;
}

void Program::keep_border(int tensor, const Pair& padding) {
  Planned& planned = tensors_[tensor];
  require<NoKernel>(!planned.bare || padding == Pair{0, 0}, kBare);
  planned.border_h = std::max(planned.border_h, padding[0]);
  planned.border_w = std::max(planned.border_w, padding[1]);
}

int Program::conv(int x, const Array<float>& weight, const Array<float>& bias,
                  const Pattern& pattern, const Window& window, int groups, int residual,
                  Clamp clamp) {
  known(x, "the input");
  if (residual >= 0) known(residual, "the residual");
  const Convolution layer = check_conv(x, weight, pattern, window, -1);
  if (residual >= 0 && shape(residual) != std::array{layer.outputs, layer.height, layer.width}) {
    // Not pixel by pixel: an addition of its own knows how, or that it has no kernel.
    const int sum = conv(x, weight, bias, pattern, window, groups, -1, {});
    return binary(sum, residual, Operator::kAdd, 0, clamp);
  }
  require<NoKernel>(residual < 0 || !tensors_[residual].planar, "a residual in planes");
  const auto [kernel_h, kernel_w] = window.kernel;
  const auto fill = [&](auto& work) {
    work.kernel_h = kernel_h, work.kernel_w = kernel_w;
    work.stride_h = window.stride[0], work.stride_w = window.stride[1];
    work.pad_h = window.padding[0], work.pad_w = window.padding[1];
    work.dilation_h = window.dilation[0], work.dilation_w = window.dilation[1];
    work.low = clamp.low, work.high = clamp.high;
    work.bias = packed_bias(bias, layer.outputs);
  };
  const bool planar = tensors_[x].planar;
  const bool depthwise = groups > 1 && groups == layer.inputs && groups == layer.outputs;
  require(!planar || (!pattern.blocks && groups == 1),
          "only a dense convolution reads an image as planes");
  keep_border(x, window.padding);
  const int made = output(layer.outputs, layer.height, layer.width);
  tensors_[made].negative = clamp.low < 0;
  if (depthwise) {
    Depthwise work;
    fill(work);
    expect_shape(weight, {layer.inputs, 1, kernel_h, kernel_w}, "weight");
    require(!pattern.blocks, "a depthwise convolution in blocks");
    float* packed =
        floats(static_cast<std::size_t>(blocks_of(layer.inputs)) * kernel_h * kernel_w * kBlock);
    pack_depthwise(weight.data, layer.inputs, kernel_h, kernel_w, packed);
    work.weights = packed;
    return add(work, x, residual, made, "depthwise " + layer.name, layer.macs, layer.weights);
  }
  Listing listing = list_inputs(weight, pattern, layer.inputs, groups);
  if (planar) listing.width = layer.inputs, listing.count = 1;
  Conv work;
  fill(work);
  work.planar = planar;
  work.count = listing.count, work.width = listing.width;
  work.kernel_h = listing.kernel[0], work.kernel_w = listing.kernel[1];
  float* packed = floats(conv_floats(layer.outputs, listing.count, listing.width, work.kernel_h,
                                     work.kernel_w));
  std::int32_t* sources =
      integers(static_cast<std::size_t>(blocks_of(layer.outputs)) * listing.count);
  pack_conv(listing.weights, listing.blocks, layer.outputs, listing.fan_in, listing.count,
            listing.width, work.kernel_h, work.kernel_w, packed, sources);
  work.weights = packed, work.sources = sources, work.taps = kept(listing.taps);
  return add(work, x, residual, made, "conv " + layer.name, layer.macs, layer.weights);
}

int Program::linear(int x, const Array<float>& weight, const Array<float>& bias,
                    const Pattern& pattern, Clamp clamp) {
  require(x >= 0 && x < static_cast<int>(tensors_.size()),
          "the input is tensor " + to_string(x) + ", which does not exist");
  const bool flat = tensors_[x].flat_of >= 0;
  const Planned in = known(flat ? tensors_[x].flat_of : x, "the input");
  require(!in.planar && (flat || in.height * in.width == 1),
          "a linear layer reads a vector: flatten comes first");
  require(weight.shape.size() == 2,
          "weight has shape " + text(weight.shape) + ", expected (outputs, fan-in)");
  const int inputs = flat ? tensors_[x].channels : in.channels;
  const int outputs = weight.shape[0], fan_in = weight.shape[1];
  require(outputs >= 1 && fan_in >= 1, "weight has shape " + text(weight.shape));
  keep_bare(tensors_[flat ? tensors_[x].flat_of : x]);
  // A flat view of one pixel lies as a vector does; one of several pixels lies in blocks.
  const bool reorder = in.height * in.width > 1;

  Linear work;
  work.outputs = outputs;
  work.low = clamp.low, work.high = clamp.high;
  const std::size_t rows = blocks_of(outputs);
  if (pattern.columns) {
    require(!pattern.blocks, "a pattern is in blocks or in columns, not both");
    expect_shape(pattern.columns, {outputs, fan_in}, "columns");
    std::vector<std::int32_t> columns(pattern.columns.data,
                                      pattern.columns.data + std::size_t(outputs) * fan_in);
    for (std::int32_t& column : columns) {
      require(column >= 0 && column < inputs,
              "columns names input " + to_string(column) + " of " + to_string(inputs));
      if (reorder) column = blocked_index(column, in.height, in.width);
    }
    float* packed = floats(rows * fan_in * kBlock);
    std::int32_t* packed_columns = integers(rows * fan_in * kBlock);
    pack_columns(weight.data, columns.data(), outputs, fan_in, packed, packed_columns);
    work.weights = packed, work.columns = packed_columns;
    work.count = fan_in, work.width = 1;
  } else {
    require(!reorder || !pattern.blocks,
            "a layer in blocks reads a vector in order: flatten with a copy");
    Listing listing = list_inputs(weight, pattern, inputs, 1);
    if (reorder) {
      listing.fan_in = blocks_of(in.channels) * kBlock * in.height * in.width;
      listing.own.assign(static_cast<std::size_t>(outputs) * listing.fan_in, 0.0f);
      for (int i = 0; i < inputs; ++i) {
        const int place = blocked_index(i, in.height, in.width);
        for (std::size_t o = 0; o < static_cast<std::size_t>(outputs); ++o) {
          listing.own[o * listing.fan_in + place] = weight.data[o * inputs + i];
        }
      }
      listing.weights = listing.own.data();
      listing.width = kBlock, listing.count = listing.fan_in / kBlock;
    }
    work.count = listing.count, work.width = listing.width;
    float* packed = floats(conv_floats(outputs, work.count, work.width, 1, 1));
    std::int32_t* sources = integers(rows * work.count);
    pack_conv(listing.weights, listing.blocks, outputs, listing.fan_in, work.count, work.width, 1,
              1, packed, sources);
    work.weights = packed, work.sources = sources;
  }
  work.bias = packed_bias(bias, outputs);
  const int made = output(outputs, 1, 1);
  keep_bare(tensors_[made]);
  tensors_[made].negative = clamp.low < 0;
  const std::int64_t weights = std::int64_t{1} * outputs * fan_in;
  return add(work, x, -1, made, "linear " + to_string(inputs) + ">" + to_string(outputs), weights,
             weights);
}

int Program::pool(int x, Pooling kind, const Window& window, bool ceil_mode,
                  bool count_include_pad) {
  const Planned in = known(x, "the input");
  require<NoKernel>(!in.planar, "pooling of an image in planes");
  check_window(window, kMaxSide);
  for (int axis : {0, 1}) {
    require<NoKernel>(window.dilation[axis] == 1, "pooling with dilation");
    require(2 * window.padding[axis] <= window.kernel[axis],
            "pooling pads by more than half of its kernel");
  }
  const int high = output_side(in.height, window, 0, ceil_mode);
  const int wide = output_side(in.width, window, 1, ceil_mode);
  Pool work;
  work.kind = kind;
  work.kernel_h = window.kernel[0], work.kernel_w = window.kernel[1];
  work.stride_h = window.stride[0], work.stride_w = window.stride[1];
  work.pad_h = window.padding[0], work.pad_w = window.padding[1];
  work.count_include_pad = count_include_pad;
  const char* name = kind == Pooling::kMax ? "max pool " : "average pool ";
  const int made = output(in.channels, high, wide);
  tensors_[made].negative = in.negative;
  return add(work, x, -1, made, name + by(window.kernel));
}

int Program::global_average(int x) {
  const Planned in = known(x, "the input");
  require<NoKernel>(!in.planar, "pooling of an image in planes");
  const int made = output(in.channels, 1, 1);
  keep_bare(tensors_[made]);
  tensors_[made].negative = in.negative;
  return add(GlobalAverage{}, x, -1, made, "global average");
}

int Program::unary(int x, Function function, float alpha, float beta) {
  const Planned in = known(x, "the input");
  require<NoKernel>(!in.planar, "a function of an image in planes");
  Unary work;
  work.function = function, work.alpha = alpha, work.beta = beta;
  const int made = output(in.channels, in.height, in.width);
  const bool clamps = function == Function::kClamp;
  tensors_[made].negative = clamps ? alpha < 0 : function == Function::kHardSwish;
  return add(work, x, -1, made, "function");
}

int Program::binary(int left, int right, Operator kind, float value, Clamp clamp) {
  Planned first = known(left, "the left operand");
  require<NoKernel>(!first.planar, "arithmetic on an image in planes");
  if (right >= 0) {
    Planned second = known(right, "the right operand");
    require<NoKernel>(!second.planar, "arithmetic on an image in planes");
    if (first.height * first.width == 1 && second.height * second.width > 1) {
      std::swap(first, second);
      std::swap(left, right);
    }
    const bool same = second.height == first.height && second.width == first.width;
    require<NoKernel>(
        second.channels == first.channels && (same || second.height * second.width == 1),
        "operands of " + text({first.channels, first.height, first.width}) + " and " +
            text({second.channels, second.height, second.width}));
  }
  Binary work;
  work.kind = kind, work.value = value;
  work.low = clamp.low, work.high = clamp.high;
  const int made = output(first.channels, first.height, first.width);
  tensors_[made].negative = clamp.low < 0;
  return add(work, left, right, made, kind == Operator::kAdd ? "add" : "multiply");
}

int Program::concat(const std::vector<int>& parts) {
  require(!parts.empty(), "a concatenation of nothing");
  const Planned first = known(parts[0], "a part");
  int channels = 0;
  for (int part : parts) {
    const Planned& planned = known(part, "a part");
    require<NoKernel>(!planned.planar, "concatenation of an image in planes");
    require(planned.height == first.height && planned.width == first.width,
            "parts of " + text({planned.height, planned.width}) + " and " +
                text({first.height, first.width}) + " pixels");
    require(planned.channels <= kMaxElements - channels, "too many channels");
    channels += planned.channels;
  }
  const int made = output(channels, first.height, first.width);
  int channel = 0;
  for (int part : parts) {
    CopyChannels work;
    work.channel = channel;
    add(work, part, -1, made, "concat");
    channel += tensors_[part].channels;
  }
  return made;
}

int Program::pixel_shuffle(int x, int factor) {
  const Planned in = known(x, "the input");
  require<NoKernel>(!in.planar, "a shuffle of an image in planes");
  require<NoKernel>(factor <= kMaxStride, "a shuffle to " + to_string(factor) + " times the side");
  require(factor >= 1 && in.channels % (factor * factor) == 0,
          to_string(in.channels) + " channels to " + to_string(factor) + " times the side");
  PixelShuffle work;
  work.factor = factor;
  return add(work, x, -1,
             output(in.channels / (factor * factor), in.height * factor, in.width * factor),
             "pixel shuffle");
}

int Program::flatten(int x, bool copy) {
  const Planned in = known(x, "the input");
  require<NoKernel>(!in.planar, "an image in planes as a vector");
  const int made = output(in.channels * in.height * in.width, 1, 1);
  if (copy) {
    keep_bare(tensors_[made]);
    return add(Flatten{}, x, -1, made, "flatten");
  }
  keep_bare(tensors_[x]);
  tensors_[made].flat_of = x;
  return made;
}

}  // namespace sparse_split
