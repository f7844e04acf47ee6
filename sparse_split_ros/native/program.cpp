// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0

#include "program.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "checks.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace sparse_split {
namespace {

constexpr std::size_t kPage = 2 << 20;

std::size_t rounded(std::size_t bytes, std::size_t unit) {
  return (std::max(bytes, unit) + unit - 1) / unit * unit;
}

}  // namespace

void Free::operator()(void* memory) const { std::free(memory); }

std::unique_ptr<void, Free> allocate(std::size_t bytes) {
  const std::size_t unit = bytes < kPage / 2 ? kAlignment : kPage;
  std::unique_ptr<void, Free> memory(std::aligned_alloc(unit, rounded(bytes, unit)));
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (unit == kPage) madvise(memory.get(), rounded(bytes, unit), MADV_HUGEPAGE);  // a wish
#endif
  return memory;
}

std::size_t Program::Planned::floats() const {
  const std::size_t pixels =
      static_cast<std::size_t>(height + 2 * border_h) * (width + 2 * border_w);
  const std::size_t values = pixels * blocks_of(channels) * kBlock;
  return planar ? pixels * channels : codes ? values / sizeof(float) : values;
}

float* Program::floats(std::size_t count) {
  const std::size_t bytes = rounded(count * sizeof(float), kAlignment);
  if (bytes > room_bytes_) {
    room_bytes_ = rounded(bytes, kPage);
    weights_.push_back(allocate(room_bytes_));
    room_ = static_cast<char*>(weights_.back().get());
  }
  char* memory = room_;
  std::memset(memory, 0, bytes);
  room_ += bytes;
  room_bytes_ -= bytes;
  weight_bytes_ += bytes;
  return reinterpret_cast<float*>(memory);
}

std::int32_t* Program::integers(std::size_t count) {
  return reinterpret_cast<std::int32_t*>(floats(count));
}

Program::Planned& Program::known(int tensor, const char* what, bool codes) {
  require(open_, "operations belong to a model: begin() comes first");
  require(tensor >= 0 && tensor < static_cast<int>(tensors_.size()),
          std::string(what) + " is tensor " + to_string(tensor) + ", which does not exist");
  Planned& found = tensors_[tensor];
  const int current = static_cast<int>(models_.size()) - 1;
  require(found.model == current || tensor == models_.back().input,
          std::string(what) + " is a tensor of another model");
  require(found.flat_of < 0,
          std::string(what) + " is a flat view, which only a linear layer reads");
  require(codes || !found.codes, std::string(what) + " is in codes of 8 bits");
  return found;
}

void Program::keep_bare(Planned& planned) {
  require<NoKernel>(planned.border_h + planned.border_w == 0, kBare);
  planned.bare = true;
}

int Program::output(int channels, int height, int width) {
  require(channels >= 1 && height >= 1 && width >= 1,
          "an output of " + text({channels, height, width}) + " is empty");
  require(channels <= kMaxElements && height <= kMaxSide && width <= kMaxSide &&
              static_cast<std::int64_t>(channels) * height * width <= kMaxElements,
          "an output of " + text({channels, height, width}) + " is too large");
  Planned planned;
  planned.channels = channels, planned.height = height, planned.width = width;
  planned.model = open_ ? static_cast<int>(models_.size()) - 1 : -1;
  tensors_.push_back(planned);
  return static_cast<int>(tensors_.size()) - 1;
}

int Program::add(Work work, int input, int second, int output, std::string name,
                 std::int64_t macs, std::int64_t weights) {
  const int index = static_cast<int>(steps_.size());
  for (int tensor : {input, second, output}) {
    if (tensor < 0) continue;
    Planned* planned = &tensors_[tensor];
    if (planned->flat_of >= 0) planned = &tensors_[planned->flat_of];
    if (planned->made < 0) planned->made = index;
    planned->read = index;
  }
  Step step{std::move(work), input, second, output, std::move(name), macs, 4 * weights};
  for (int tensor : {input, second, output}) {
    if (tensor < 0) continue;
    const auto [channels, height, width] = shape(tensor);
    step.bytes += static_cast<std::int64_t>(sizeof(float)) * channels * height * width;
  }
  steps_.push_back(std::move(step));
  return output;
}

int Program::tensor(int channels, int height, int width, bool planar) {
  require(!open_ && !finished_, "an input is made between models");
  const int made = output(channels, height, width);
  tensors_[made].planar = planar;
  tensors_[made].input = true;
  return made;
}

int Program::begin(const std::string& name, int input) {
  require(!open_ && !finished_, "a model begins when the one before has ended");
  require(input >= 0 && input < static_cast<int>(tensors_.size()),
          name + ": its input is tensor " + to_string(input) + ", which does not exist");
  const Planned& read = tensors_[input];
  const bool answered = std::any_of(models_.begin(), models_.end(),
                                    [&](const Model& model) { return model.output == input; });
  require(read.input || answered, name + ": its input is inside another model");
  const int step = static_cast<int>(steps_.size());
  models_.push_back({name, input, -1, step, step});
  mark_ = {tensors_.size(), weights_.size(), weight_bytes_, room_bytes_, room_, read};
  quantised_.clear();
  open_ = true;
  return static_cast<int>(models_.size()) - 1;
}

void Program::abandon() {
  require(open_, "there is no model to take back");
  steps_.resize(models_.back().first);
  tensors_.resize(mark_.tensors);
  tensors_[models_.back().input] = mark_.input;
  weights_.resize(mark_.weights);
  weight_bytes_ = mark_.bytes;
  room_ = mark_.room, room_bytes_ = mark_.room_bytes;
  models_.pop_back();
  open_ = false;
}

void Program::end(int output) {
  Planned& planned = known(output, "the model's output");
  require(!planned.planar, "the model's output lies in planes");
  if (planned.height * planned.width == 1) keep_bare(planned);
  models_.back().output = output;
  models_.back().last = static_cast<int>(steps_.size());
  open_ = false;
}

void Program::measured(int tensor, float range) {
  require(tensor >= 0 && tensor < static_cast<int>(tensors_.size()) && range >= 0,
          "a range of " + to_string(range) + " for tensor " + to_string(tensor));
  tensors_[tensor].range = range;
}

void Program::finish() {
  require(!open_ && !finished_, "a program is finished once, after its last model");
  lay_out();
  finished_ = true;
}

void Program::lay_out() {
  // What crosses a border between models is kept until all models that read it have ended, and
  // what a model answers until the caller had a chance to take it.
  for (const Model& model : models_) {
    for (int tensor : {model.input, model.output}) {
      Planned& planned = tensors_[tensor];
      planned.made = planned.made < 0 ? model.first : std::min(planned.made, model.first);
      planned.read = std::max({planned.read, model.first, model.last - 1});
    }
  }
  // Slots of each exact shape; the step from which each is free again.
  using Shape = std::array<int, 8>;
  struct Slot {
    std::size_t offset;
    int busy_until;
  };
  std::map<Shape, std::vector<Slot>> slots;
  std::vector<int> order;
  for (int i = 0; i < static_cast<int>(tensors_.size()); ++i) {
    const Planned& planned = tensors_[i];
    if (planned.flat_of < 0 && planned.made >= 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return tensors_[a].made < tensors_[b].made; });
  constexpr std::size_t kLine = kAlignment / sizeof(float);
  std::size_t end = kLine;
  for (int i : order) {
    Planned& planned = tensors_[i];
    const Shape shape{planned.channels, planned.height,   planned.width,
                      planned.planar,   planned.border_h, planned.border_w,
                      planned.codes,    planned.scale.zero};
    std::vector<Slot>& same = slots[shape];
    auto free = std::find_if(same.begin(), same.end(),
                             [&](const Slot& slot) { return slot.busy_until < planned.made; });
    if (free == same.end()) {
      same.push_back({end, -1});
      free = same.end() - 1;
      // A line between tensors: kernels may load, and throw away, a register beyond the end.
      end += (planned.floats() + kLine - 1) / kLine * kLine + kLine;
      require(end <= static_cast<std::size_t>(kMaxArenaFloats), "the activations exceed 1 GiB");
    }
    free->busy_until = planned.read;
    planned.offset = free->offset;
  }
  arena_floats_ = end;
}

std::array<int, 3> Program::shape(int tensor) const {
  const Planned& planned = tensors_.at(tensor);
  return {planned.channels, planned.height, planned.width};
}

const Model& Program::model(int number) const {
  // Every frame comes here, so the words are made where they are needed only.
  if (number < 0 || number >= static_cast<int>(models_.size())) {
    throw PlanError("model " + to_string(number) + " of " + to_string(models_.size()));
  }
  return models_[number];
}

void Program::prepare(float* arena) const {
  std::fill_n(arena, arena_floats_, 0.0f);
  for (const Planned& planned : tensors_) {
    if (!planned.codes || planned.made < 0) continue;
    std::memset(arena + planned.offset, planned.scale.zero, planned.floats() * sizeof(float));
  }
}

// Of a row and of a block of channels, and from the memory's begin to pixel (0, 0).
std::array<std::ptrdiff_t, 3> Program::strides(const Planned& planned) const {
  const std::ptrdiff_t lane = planned.planar ? 1 : kBlock;
  const std::ptrdiff_t row = lane * (planned.width + 2 * planned.border_w);
  return {row, row * (planned.height + 2 * planned.border_h),
          planned.border_h * row + planned.border_w * lane};
}

Tensor Program::view(int tensor, float* arena) const {
  const Planned& planned = tensors_.at(tensor);
  if (planned.flat_of >= 0) return view(planned.flat_of, arena);
  const auto [row, block, begin] = strides(planned);
  return {arena + planned.offset + begin, planned.channels, planned.height, planned.width, row,
          block};
}

Codes Program::codes(int tensor, float* arena) const {
  const Planned& planned = tensors_.at(tensor);
  const auto [row, block, begin] = strides(planned);
  auto* bytes = reinterpret_cast<std::uint8_t*>(arena + planned.offset);
  return {bytes + begin, planned.channels, planned.height, planned.width, row, block};
}

Work Program::bind(const Step& step, float* arena) const {
  Work work = step.work;
  std::visit(
      [&](auto& call) {
        using Call = std::decay_t<decltype(call)>;
        if constexpr (std::is_same_v<Call, ConvInt8>) {
          call.input = codes(step.input, arena);
          if (step.second >= 0) call.residual = codes(step.second, arena);
          if (tensors_[step.output].codes) {
            call.output = codes(step.output, arena);
          } else {
            call.real = view(step.output, arena);
          }
        } else if constexpr (std::is_same_v<Call, Quantise>) {
          call.input = view(step.input, arena);
          call.output = codes(step.output, arena);
        } else if constexpr (std::is_same_v<Call, Linear>) {
          call.input = view(step.input, arena).data;
          call.output = view(step.output, arena).data;
        } else if constexpr (std::is_same_v<Call, Binary>) {
          call.left = view(step.input, arena);
          if (step.second >= 0) call.right = view(step.second, arena);
          call.output = view(step.output, arena);
        } else {
          call.input = view(step.input, arena);
          call.output = view(step.output, arena);
          if constexpr (std::is_same_v<Call, Conv> || std::is_same_v<Call, Depthwise>) {
            if (step.second >= 0) call.residual = view(step.second, arena);
          }
        }
      },
      work);
  return work;
}

}  // namespace sparse_split
