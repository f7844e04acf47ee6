// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs every kernel of every instruction set of this machine in memory that is exactly as large as
// it must be, for sanitizers to watch, and compares the results with the plain kernels'. Needs no
// Python, so that an emulator of another machine can run it.

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "session.hpp"

using namespace sparse_split;

namespace {

std::atomic<long> allocations{0};

}  // namespace

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size);
}
void* operator new(std::size_t size) {
  void* memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using Floats = std::vector<float>;

std::mt19937 generator(1);

Floats random_floats(std::size_t count) {
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

struct Image {
  Floats memory;
  Tensor tensor;

  Image(int channels, int height, int width, int border = 0, bool planar = false) {
    const int pixel = planar ? 1 : kBlock;
    tensor.channels = channels;
    tensor.height = height;
    tensor.width = width;
    tensor.row = (width + 2 * border) * pixel;
    tensor.block = tensor.row * (height + 2 * border);
    memory.resize((planar ? channels : blocks_of(channels)) * tensor.block);
    tensor.data = memory.data() + border * tensor.row + border * pixel;
  }
};

Image random_image(int channels, int height, int width, int border = 0, bool planar = false) {
  Image image(channels, height, width, border, planar);
  const Floats values = random_floats(std::size_t(channels) * height * width);
  find("plain")->import_planes(values.data(), image.tensor, planar);
  find("plain")->fill_border(image.tensor, border, border, planar);
  return image;
}

int checks = 0;

// Runs `work` with the kernels of each instruction set and compares what `result` then holds.
template <typename Table>
void compare_tables(const char* what, const Table& plain, const Table* const* tables,
                    Floats& result, float tolerance,
                    const std::function<void(const Table&)>& work) {
  work(plain);
  const Floats expected = result;
  for (; *tables != nullptr; ++tables) {
    std::fill(result.begin(), result.end(), NAN);
    work(**tables);
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (!(std::fabs(result[i] - expected[i]) <= tolerance)) {
        std::printf("%s of %s: value %zu is %g, expected %g\n", what, (*tables)->name, i,
                    result[i], expected[i]);
        std::exit(1);
      }
    }
    ++checks;
  }
}

void compare(const char* what, Floats& result, const std::function<void(const Kernels&)>& work) {
  compare_tables(what, *find("plain"), available(), result, 1e-4f, work);
}
// Codes may differ by one, where a sum lies halfway between two.
void compare_int8(const char* what, Floats& result,
                  const std::function<void(const Int8Kernels&)>& work) {
  compare_tables(what, *find_int8("plain"), available_int8(), result, 1.001f, work);
}

void check_conv(int inputs, int outputs, int side, int kernel, int stride, bool planar) {
  const int pad = kernel / 2, output_side = (side + 2 * pad - kernel) / stride + 1;
  const Image input = random_image(inputs, side, side + 3, pad, planar);
  const int output_width = (side + 3 + 2 * pad - kernel) / stride + 1;
  Image output(outputs, output_side, output_width);
  const Image residual = random_image(outputs, output_side, output_width);
  Conv layer;
  layer.input = input.tensor;
  layer.output = output.tensor;
  layer.residual = residual.tensor;
  layer.width = planar ? inputs : dense_width(inputs);
  layer.count = (inputs + layer.width - 1) / layer.width;
  Floats packed(conv_floats(outputs, layer.count, layer.width, kernel, kernel));
  std::vector<std::int32_t> sources(blocks_of(outputs) * layer.count);
  pack_conv(random_floats(std::size_t(outputs) * inputs * kernel * kernel).data(), nullptr, outputs,
            inputs, layer.count, layer.width, kernel, kernel, packed.data(), sources.data());
  layer.weights = packed.data();
  layer.sources = sources.data();
  layer.kernel_h = layer.kernel_w = kernel;
  layer.stride_h = layer.stride_w = stride;
  layer.pad_h = layer.pad_w = pad;
  layer.low = 0;
  layer.planar = planar;
  compare("conv", output.memory, [&](const Kernels& k) { k.conv(layer, whole(layer.output)); });
}

void check_depthwise(int channels, int side, int kernel, int stride) {
  const int pad = kernel / 2, output_side = (side + 2 * pad - kernel) / stride + 1;
  const Image input = random_image(channels, side, side, pad);
  Image output(channels, output_side, output_side);
  Floats packed(blocks_of(channels) * kernel * kernel * kBlock);
  pack_depthwise(random_floats(channels * kernel * kernel).data(), channels, kernel, kernel,
                 packed.data());
  Depthwise layer;
  layer.input = input.tensor;
  layer.output = output.tensor;
  layer.weights = packed.data();
  layer.kernel_h = layer.kernel_w = kernel;
  layer.stride_h = layer.stride_w = stride;
  layer.pad_h = layer.pad_w = pad;
  compare("depthwise", output.memory,
          [&](const Kernels& k) { k.depthwise(layer, whole(layer.output)); });
}

void check_linear(int inputs, int outputs) {
  Floats x = random_floats(inputs), y(blocks_of(outputs) * kBlock);
  x.resize(blocks_of(inputs) * kBlock);
  const Floats weights = random_floats(std::size_t(inputs) * outputs);
  Linear layer;
  layer.input = x.data();
  layer.output = y.data();
  layer.outputs = outputs;
  layer.width = dense_width(inputs);
  layer.count = (inputs + layer.width - 1) / layer.width;
  Floats packed(conv_floats(outputs, layer.count, layer.width, 1, 1));
  std::vector<std::int32_t> sources(blocks_of(outputs) * layer.count);
  pack_conv(weights.data(), nullptr, outputs, inputs, layer.count, layer.width, 1, 1, packed.data(),
            sources.data());
  layer.weights = packed.data();
  layer.sources = sources.data();
  const auto run = [&](const Kernels& k) { k.linear(layer, 0, blocks_of(outputs)); };
  compare("linear", y, run);

  std::vector<std::int32_t> columns(std::size_t(inputs) * outputs);
  for (std::size_t i = 0; i < columns.size(); ++i) columns[i] = (i * 7 + 3) % inputs;
  Floats values(std::size_t(blocks_of(outputs)) * inputs * kBlock);
  std::vector<std::int32_t> places(values.size());
  pack_columns(weights.data(), columns.data(), outputs, inputs, values.data(), places.data());
  layer.weights = values.data();
  layer.columns = places.data();
  layer.count = inputs;
  layer.width = 1;
  compare("linear with columns", y, run);
}

void check_pools(int channels, int side) {
  const Image input = random_image(channels, side, side);
  Image output(channels, (side + 1) / 2, (side + 1) / 2);
  for (const Pooling kind : {Pooling::kMax, Pooling::kAverage}) {
    Pool layer;
    layer.input = input.tensor;
    layer.output = output.tensor;
    layer.kind = kind;
    layer.kernel_h = layer.kernel_w = 3;
    layer.stride_h = layer.stride_w = 2;
    layer.pad_h = layer.pad_w = 1;
    compare("pool", output.memory, [&](const Kernels& k) { k.pool(layer, whole(layer.output)); });
  }
  Floats means(blocks_of(channels) * kBlock);
  compare("global average", means, [&](const Kernels& k) {
    k.global_average(input.tensor, means.data(), 0, blocks_of(channels));
  });
}

void check_elementwise(int channels, int side) {
  const Image left = random_image(channels, side, side), right = random_image(channels, side, side);
  const Image one = random_image(channels, 1, 1);
  Image output(channels, side, side);
  for (const Function function : {Function::kClamp, Function::kHardSigmoid, Function::kHardSwish,
                                  Function::kSigmoid}) {
    const Unary layer{left.tensor, output.tensor, function, 0.2f, 0.5f};
    compare("unary", output.memory, [&](const Kernels& k) { k.unary(layer, whole(layer.output)); });
  }
  for (const Tensor& second : {right.tensor, one.tensor, Tensor{}}) {
    Binary layer;
    layer.left = left.tensor;
    layer.right = second;
    layer.output = output.tensor;
    layer.kind = Operator::kMultiply;
    layer.value = 0.5f;
    compare("binary", output.memory,
            [&](const Kernels& k) { k.binary(layer, whole(layer.output)); });
  }
  const Floats logits = random_floats(channels);
  Floats probabilities(channels);
  compare("softmax", probabilities, [&](const Kernels& k) {
    k.softmax(logits.data(), probabilities.data(), channels, 0.7f);
  });
}

void check_layout(int channels, int side) {
  const Image input = random_image(channels, side, side), other = random_image(5, side, side);
  Floats planes(std::size_t(channels) * side * side);
  compare("export", planes,
          [&](const Kernels& k) { k.export_planes(input.tensor, planes.data()); });
  Image joined(channels + 5, side, side);
  compare("copy", joined.memory, [&](const Kernels& k) {
    std::fill(joined.memory.begin(), joined.memory.end(), 0.0f);
    k.copy_channels(input.tensor, joined.tensor, 0);
    k.copy_channels(other.tensor, joined.tensor, channels);
  });
  Image shuffled(channels / 4, 2 * side, 2 * side);
  compare("pixel shuffle", shuffled.memory,
          [&](const Kernels& k) { k.pixel_shuffle(input.tensor, shuffled.tensor, 2); });
  const Floats low(channels, -2.0f), step(channels, 0.02f);
  for (const Packing kind : {Packing::kHalf, Packing::kByte, Packing::kNibble}) {
    const int bits = kind == Packing::kHalf ? 16 : kind == Packing::kByte ? 8 : 4;
    std::vector<std::uint8_t> bytes((planes.size() * bits + 7) / 8);
    Floats codes(bytes.size());
    compare("pack", codes, [&](const Kernels& k) {
      k.pack({input.tensor, bytes.data(), kind, low.data(), step.data()});
      codes.assign(bytes.begin(), bytes.end());
    });
  }
}

struct CodedImage {
  std::vector<std::uint8_t> memory;
  Codes tensor;

  CodedImage(int channels, int height, int width, int border = 0) {
    tensor.channels = channels;
    tensor.height = height;
    tensor.width = width;
    tensor.row = (width + 2 * border) * kBlock;
    tensor.block = tensor.row * (height + 2 * border);
    memory.resize(blocks_of(channels) * tensor.block);
    tensor.data = memory.data() + (border * tensor.row + border * kBlock);
  }
};

void check_int8(int inputs, int outputs, int side, int kernel, int stride, bool negative) {
  const int pad = kernel / 2, output_side = (side + 2 * pad - kernel) / stride + 1;
  const Image real = random_image(inputs, side, side);
  const CodedImage input(inputs, side, side, pad);
  CodedImage output(outputs, output_side, output_side);
  ConvInt8 layer;
  layer.input = input.tensor;
  layer.output = output.tensor;
  layer.input_scale = scale_of(3, negative);
  layer.output_scale = scale_of(20, true);
  layer.width = dense_width(inputs);
  layer.count = (inputs + layer.width - 1) / layer.width;
  layer.kernel_h = layer.kernel_w = kernel;
  layer.stride_h = layer.stride_w = stride;
  layer.pad_h = layer.pad_w = pad;
  std::vector<std::int8_t> packed(conv_floats(outputs, layer.count, layer.width, kernel, kernel));
  std::vector<std::int32_t> sources(blocks_of(outputs) * layer.count);
  Floats steps(blocks_of(outputs) * kBlock);
  std::vector<std::int32_t> sums(steps.size());
  pack_conv_int8(random_floats(std::size_t(outputs) * inputs * kernel * kernel).data(), nullptr,
                 outputs, inputs, layer.count, layer.width, kernel, kernel, packed.data(),
                 sources.data(), steps.data(), sums.data());
  layer.weights = packed.data();
  layer.sources = sources.data();
  layer.weight_steps = steps.data();
  layer.sums = sums.data();
  find_int8("plain")->quantise(real.tensor, input.tensor, layer.input_scale, whole(input.tensor));
  find_int8("plain")->fill_border(input.tensor, pad, pad, layer.input_scale.zero);

  Floats codes(output.memory.size());
  compare_int8("int8 conv", codes, [&](const Int8Kernels& k) {
    k.conv(layer, whole(layer));
    codes.assign(output.memory.begin(), output.memory.end());
  });
  Image results(outputs, output_side, output_side);
  compare_int8("dequantise", results.memory, [&](const Int8Kernels& k) {
    k.dequantise(output.tensor, layer.output_scale, results.tensor, whole(output.tensor));
  });
  compare_int8("quantise", codes, [&](const Int8Kernels& k) {
    k.quantise(results.tensor, output.tensor, layer.output_scale, whole(output.tensor));
    codes.assign(output.memory.begin(), output.memory.end());
  });
}

// Whole frames: the answers of every instruction set and number of threads agree, a frame after the
// first allocates nothing, and what was planned and given up leaves no trace.
void check_session(const char* isa, int threads, Floats& answer) {
  generator.seed(7);
  auto program = std::make_shared<Program>(*find(isa));
  const auto array = [](Floats& values, std::vector<int> shape) {
    std::size_t count = 1;
    for (const int side : shape) count *= side;
    values = random_floats(count);
    return Array<float>{values.data(), std::move(shape)};
  };
  Floats first, second, third, fourth;
  const Array<float> stem = array(first, {48, 3, 3, 3}), wide = array(second, {160, 48, 3, 3});
  const Array<float> narrow = array(third, {160, 160, 1, 1});
  const Array<float> head = array(fourth, {43, 160 * 12 * 12});
  const Window around{{3, 3}, {1, 1}, {1, 1}, {1, 1}};
  const int image = program->tensor(3, 24, 24, true);
  program->begin("given up", image);
  program->conv(image, stem, {}, {}, around, 1, -1, {0, 6});
  program->abandon();
  const int stage = program->begin("stage", image);
  int x = program->conv(image, stem, {}, {}, around, 1, -1, {0, 6});
  x = program->conv(x, wide, {}, {}, around, 1, -1, {0, 6});
  x = program->pool(x, Pooling::kMax, {{2, 2}, {2, 2}, {0, 0}, {1, 1}}, true, true);
  x = program->conv(x, narrow, {}, {}, {}, 1, x, {0, 6});
  program->end(x);
  const int exit = program->begin("exit", x);
  program->end(program->linear(program->flatten(x, true), head, {}, {}, {}));
  program->finish();

  Session session(program, {{stage, exit, {{40, 100.0f}, {3, 50.0f}}}}, threads);
  const Floats input = random_floats(3 * 24 * 24);
  Floats features(160 * 12 * 12), logits(43), probabilities(43);
  for (int frame = 0; frame < 5; ++frame) {
    Asked asked;
    asked.exit = true;
    asked.threshold = 2;
    asked.logits = logits.data();
    asked.probabilities = probabilities.data();
    Request request;
    request.x = input.data();
    request.rows = 1;
    request.features = features.data();
    request.stages = &asked;
    const long before = allocations;
    session.run(request);
    if (frame > 0 && allocations != before) {
      std::printf("a frame allocates %ld times\n", allocations - before);
      std::exit(1);
    }
  }
  answer = features;
  answer.insert(answer.end(), probabilities.begin(), probabilities.end());
}

}  // namespace

int main() {
  for (const int kernel : {1, 3, 5}) {
    for (const int stride : {1, 2, 3}) {
      for (const int side : {4, 9, 17}) {
        check_conv(20, 33, side, kernel, stride, false);
        check_conv(3, 16, side, kernel, stride, true);
        check_depthwise(20, side, kernel, stride);
      }
    }
  }
  for (const bool negative : {false, true}) {
    check_int8(20, 33, 9, 3, 1, negative);
    check_int8(3, 16, 17, 5, 2, negative);
    check_int8(32, 16, 10, 3, 3, negative);
    check_int8(40, 20, 1, 1, 1, negative);
  }
  check_linear(40, 43);
  check_linear(7, 3);
  check_pools(21, 9);
  check_elementwise(21, 7);
  check_layout(20, 5);
  for (const int threads : {1, 2}) {
    Floats answer;
    check_session("plain", threads, answer);
    compare("session", answer, [&](const Kernels& k) { check_session(k.name, threads, answer); });
  }
  std::printf("%d results agree:", checks);
  for (const Kernels* const* kernels = available(); *kernels != nullptr; ++kernels) {
    std::printf(" %s", (*kernels)->name);
  }
  for (const Int8Kernels* const* kernels = available_int8(); *kernels != nullptr; ++kernels) {
    std::printf(" int8-%s", (*kernels)->name);
  }
  std::printf("\n");
}
