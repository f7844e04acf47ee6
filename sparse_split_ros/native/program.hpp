// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The models of an engine as lists of kernel calls over planned memory.
//
// A program is written once, operation by operation, each checked when it is written: afterwards
// there is nothing left in it that could read or write outside its memory. Then finish() gives each
// tensor its place. Tensors of one shape that are never needed together share one; no others do,
// so the zeros around an image and behind its last channel are written once, when an arena is made,
// and stay.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "int8.hpp"
#include "kernels.hpp"

namespace sparse_split {

// A plan that cannot be.
struct PlanError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// A plan that could be, of something there is no kernel for.
struct NoKernel : PlanError {
  using PlanError::PlanError;
};

// An array somebody else owns; `data` is null for one that is left out.
template <typename T>
struct Array {
  const T* data = nullptr;
  std::vector<int> shape;

  explicit operator bool() const { return data != nullptr; }
};

struct Free {
  void operator()(void* memory) const;
};
// Memory of so many bytes, aligned. In large pages, where the system has them and one is filled:
// looking up hundreds of small ones takes time in every frame.
std::unique_ptr<void, Free> allocate(std::size_t bytes);

using Pair = std::array<int, 2>;

struct Window {
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0}, dilation{1, 1};
};

// What a weight connects: everything, blocks of `width` inputs per 16 outputs ([O/16][fan-in/width]
// block numbers), or single inputs per output ([O][fan-in] input numbers).
struct Pattern {
  Array<std::int32_t> blocks, columns;
  int width = 0;
};

struct Clamp {
  float low = -__builtin_inff(), high = __builtin_inff();
};

// Kernel calls that are not kernel structures of their own.
struct GlobalAverage {
  Tensor input, output;
};
struct CopyChannels {
  Tensor input, output;
  int channel = 0;
};
struct PixelShuffle {
  Tensor input, output;
  int factor = 1;
};
struct Flatten {
  Tensor input, output;
};

struct Quantise {
  Tensor input;
  Codes output;
  Scale scale;
};

using Work = std::variant<Conv, Depthwise, Linear, Pool, GlobalAverage, Unary, Binary, CopyChannels,
                          PixelShuffle, Flatten, ConvInt8, Quantise>;

// One kernel call; where its tensors lie is known per arena.
struct Step {
  Work work;
  int input = -1, second = -1, output = -1;  // tensors; `second` is a residual or right operand
  std::string name;                          // for people: 'conv 3x3/1 64>64 at 16x16'
  std::int64_t macs = 0;
  std::int64_t bytes = 0;  // of weights and activations, each touched once
};

struct Model {
  std::string name;
  int input = -1, output = -1;
  int first = 0, last = 0;  // its steps, the end excluded
};

class Program {
 public:
  explicit Program(const Kernels& kernels) : kernels_(&kernels) {}

  // A tensor that a model reads: the image as planes, or features.
  int tensor(int channels, int height, int width, bool planar);

  // Whether values of a tensor may be negative, which decides what codes of 8 bits stand for. Of a
  // tensor that comes from outside they may, until it is said otherwise.
  bool negative(int tensor) const { return tensors_.at(tensor).negative; }
  void set_negative(int tensor, bool negative) { tensors_.at(tensor).negative = negative; }

  // Begins a model that reads tensor `input`; end() says what it answers. Returns its number.
  int begin(const std::string& name, int input);
  void end(int output);
  // Takes back the model that is begun, as if it had never been.
  void abandon();

  // Each writes one operation and returns its output. Throw PlanError, NoKernel.
  int conv(int x, const Array<float>& weight, const Array<float>& bias, const Pattern& pattern,
           const Window& window, int groups, int residual, Clamp clamp);
  // The same on integers of 8 bits, for a layer that lists blocks or all inputs. What it reads is
  // brought into codes where it is not, by the ranges that measured() gave. `range` is that of the
  // output; with `codes` that is left as codes, which only conv_int8() reads.
  int conv_int8(int x, const Array<float>& weight, const Array<float>& bias, const Pattern& pattern,
                const Window& window, int residual, Clamp clamp, float range, bool codes);
  int linear(int x, const Array<float>& weight, const Array<float>& bias, const Pattern& pattern,
             Clamp clamp);
  int pool(int x, Pooling kind, const Window& window, bool ceil_mode, bool count_include_pad);
  int global_average(int x);
  int unary(int x, Function function, float alpha, float beta);
  int binary(int left, int right, Operator kind, float value, Clamp clamp);
  int concat(const std::vector<int>& parts);
  int pixel_shuffle(int x, int factor);
  // [C][H][W] as a vector. Without `copy` it stays in blocks, which a dense layer reads as well,
  // its weights reordered instead; nothing may then need a border around x.
  int flatten(int x, bool copy);

  // The largest magnitude of a tensor's values on calibration images.
  void measured(int tensor, float range);

  // Plans the memory; nothing can be written afterwards.
  void finish();

  std::array<int, 3> shape(int tensor) const;
  const Kernels& kernels() const { return *kernels_; }
  const std::vector<Model>& models() const { return models_; }
  const std::vector<Step>& steps() const { return steps_; }
  const Model& model(int number) const;
  bool finished() const { return finished_; }
  std::size_t arena_floats() const { return arena_floats_; }
  std::size_t weight_bytes() const { return weight_bytes_; }

  // Sets everything in an arena that no step will write: what surrounds the tensors.
  void prepare(float* arena) const;
  // The tensor in the memory that begins at `arena`.
  Tensor view(int tensor, float* arena) const;
  bool planar(int tensor) const { return tensors_.at(tensor).planar; }
  // The step's kernel call in that memory.
  Work bind(const Step& step, float* arena) const;

 private:
  struct Planned {
    int channels = 0, height = 0, width = 0;
    bool planar = false;
    bool input = false;
    int model = -1;        // the model that computes it
    int flat_of = -1;      // the tensor whose memory this vector is
    bool bare = false;     // see keep_bare()
    bool negative = true;  // whether a value may be
    float range = -1;      // largest magnitude; -1: not measured
    bool codes = false;    // bytes, of this scale
    Scale scale;
    int border_h = 0, border_w = 0;
    int made = -1, read = -1;  // first and last step that need it
    std::size_t offset = 0;

    std::size_t floats() const;
  };
  // A convolution whose shapes fit.
  struct Convolution {
    int inputs, outputs, height, width;
    std::int64_t weights = 0, macs = 0;
    std::string name{};
  };

  Planned& known(int tensor, const char* what, bool codes = false);
  // Lies as one run of memory, without a border. Throws NoKernel where it already has one.
  void keep_bare(Planned& planned);
  void keep_border(int tensor, const Pair& padding);
  Convolution check_conv(int x, const Array<float>& weight, const Pattern& pattern,
                         const Window& window, int residual);
  // The tensor as codes: itself, or what a step makes of it.
  int quantised(int tensor);
  int output(int channels, int height, int width);
  int output_side(int side, const Window& window, int axis, bool ceil_mode = false) const;
  int add(Work work, int input, int second, int output, std::string name, std::int64_t macs = 0,
          std::int64_t weights = 0);
  std::array<std::ptrdiff_t, 3> strides(const Planned& planned) const;
  Codes codes(int tensor, float* arena) const;
  float* floats(std::size_t count);
  std::int32_t* integers(std::size_t count);
  const float* packed_bias(const Array<float>& bias, int outputs);
  // A copy that lives as long as the program; null of nothing.
  const std::int32_t* kept(const std::vector<std::int32_t>& values);
  void lay_out();

  const Kernels* kernels_;
  std::vector<Planned> tensors_;
  std::vector<Model> models_;
  std::vector<Step> steps_;
  // Weights lie one behind the other, in pieces of memory: how many there are, and what is left in
  // the last one.
  std::vector<std::unique_ptr<void, Free>> weights_;
  char* room_ = nullptr;
  std::size_t room_bytes_ = 0;
  std::map<int, int> quantised_;  // of the open model: tensor -> its codes
  std::size_t weight_bytes_ = 0;
  std::size_t arena_floats_ = 0;
  bool open_ = false;
  // For abandon(): what there was before the open model.
  struct Mark {
    std::size_t tensors, weights, bytes, room_bytes;
    char* room;
    Planned input;
  } mark_{};
  bool finished_ = false;
};

}  // namespace sparse_split
