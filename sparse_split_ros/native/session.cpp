// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0

#include "session.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace sparse_split {
namespace {

using Clock = std::chrono::steady_clock;

// The least work, in multiply-adds, that is worth another thread: some 2 µs.
constexpr std::int64_t kPart = 200'000;
// Rows of a batch that go from stage to stage together, each in an arena of its own.
constexpr int kRowsTogether = 16;
// Parts per thread: enough that one thread that is late does not keep the others waiting.
constexpr int kPartsPerThread = 4;

double since_ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// The padding of the last block of channels is zero, so it may be looked at too.
bool finite(const Kernels& kernels, const Tensor& tensor) {
  const std::ptrdiff_t row = std::ptrdiff_t{tensor.width} * kBlock;
  for (int block = 0; block < blocks_of(tensor.channels); ++block) {
    const float* values = tensor.data + block * tensor.block;
    if (!kernels.finite(values, row, tensor.row, tensor.height)) return false;
  }
  return true;
}

// Lanes beyond the last channel, of a tensor that is written channel by channel: they may hold what
// another tensor, of a frame that overflowed, left in this memory.
void clear_tail(const Tensor& tensor) {
  const int used = tensor.channels % kBlock;
  if (used == 0) return;
  float* row = tensor.data + tensor.channels / kBlock * tensor.block;
  for (int y = 0; y < tensor.height; ++y, row += tensor.row) {
    for (int x = 0; x < tensor.width; ++x) {
      std::fill(row + x * kBlock + used, row + (x + 1) * kBlock, 0.0f);
    }
  }
}

void call(const Kernels& kernels, const Work& work, Range range) {
  std::visit(
      [&](const auto& call) {
        using Call = std::decay_t<decltype(call)>;
        if constexpr (std::is_same_v<Call, Conv>) {
          kernels.conv(call, range);
        } else if constexpr (std::is_same_v<Call, Depthwise>) {
          kernels.depthwise(call, range);
        } else if constexpr (std::is_same_v<Call, Linear>) {
          kernels.linear(call, range.block, range.block_end);
        } else if constexpr (std::is_same_v<Call, Pool>) {
          kernels.pool(call, range);
        } else if constexpr (std::is_same_v<Call, GlobalAverage>) {
          kernels.global_average(call.input, call.output.data, range.block, range.block_end);
        } else if constexpr (std::is_same_v<Call, Unary>) {
          kernels.unary(call, range);
        } else if constexpr (std::is_same_v<Call, Binary>) {
          kernels.binary(call, range);
        } else if constexpr (std::is_same_v<Call, CopyChannels>) {
          kernels.copy_channels(call.input, call.output, call.channel);
          if (call.channel + call.input.channels == call.output.channels) clear_tail(call.output);
        } else if constexpr (std::is_same_v<Call, PixelShuffle>) {
          kernels.pixel_shuffle(call.input, call.output, call.factor);
        } else if constexpr (std::is_same_v<Call, Flatten>) {
          kernels.export_planes(call.input, call.output.data);
          clear_tail(call.output);
        } else if constexpr (std::is_same_v<Call, ConvInt8>) {
          best_int8().conv(call, range);
        } else {
          best_int8().quantise(call.input, call.output, call.scale, range);
        }
      },
      work);
}

Bound measured(const Kernels& kernels, const Work& work) {
  return std::visit(
      [&](const auto& call) -> Bound {
        using Call = std::decay_t<decltype(call)>;
        if constexpr (std::is_same_v<Call, Linear>) {
          return {work, {0, blocks_of(call.outputs), 0, 1}, 1};
        } else if constexpr (std::is_same_v<Call, ConvInt8>) {
          const Range all = whole(call);
          const int width = call.output.data ? call.output.width : call.real.width;
          return {work, all, std::max(1, kernels.tile_rows(width))};
        } else {
          const Range all = whole(call.output);
          if constexpr (std::is_same_v<Call, Conv>) {
            return {work, all, std::max(1, kernels.tile_rows(call.output.width))};
          } else if constexpr (std::is_same_v<Call, Depthwise>) {
            return {work, all, 1};
          } else {
            return {work, all, 0};
          }
        }
      },
      work);
}

// A call cut into parts: runs of blocks first, then runs of rows within them.
struct Cut {
  const Kernels* kernels;
  const Bound* bound;
  int block_parts, row_parts;

  static void run(const void* context, int part) {
    const Cut& cut = *static_cast<const Cut*>(context);
    const auto& [work, all, grain] = *cut.bound;
    const int blocks = all.block_end;
    const int tiles = (all.row_end + grain - 1) / grain;
    const int b = part / cut.row_parts, r = part % cut.row_parts;
    Range range;
    range.block = blocks * b / cut.block_parts;
    range.block_end = blocks * (b + 1) / cut.block_parts;
    range.row = tiles * r / cut.row_parts * grain;
    range.row_end = std::min(all.row_end, tiles * (r + 1) / cut.row_parts * grain);
    call(*cut.kernels, work, range);
  }
};

}  // namespace

Arena::Arena(const Program& program)
    : program_(&program), memory_(allocate(program.arena_floats() * sizeof(float))) {
  program.prepare(memory());
  bound_.reserve(program.steps().size());
  for (const Step& step : program.steps()) {
    bound_.push_back(measured(program.kernels(), program.bind(step, memory())));
  }
}

// Arenas for the rows of one run.
class Session::Lease {
 public:
  Lease(Session& session, int rows) : session_(session) {
    if (at_home_) {
      const std::lock_guard<std::mutex> lock(session_.mutex_);
      for (; held_ < rows && !session_.idle_.empty(); ++held_) {
        arenas_[held_] = std::move(session_.idle_.back());
        session_.idle_.pop_back();
      }
    }
    for (; held_ < rows; ++held_) arenas_[held_] = std::make_unique<Arena>(*session_.program_);
  }
  ~Lease() {
    if (!at_home_) return;
    const std::lock_guard<std::mutex> lock(session_.mutex_);
    while (held_ > 0) session_.idle_.push_back(std::move(arenas_[--held_]));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const Arena& operator[](int row) const { return *arenas_[row]; }

 private:
  Session& session_;
  const bool at_home_ = getpid() == session_.process_;
  std::unique_ptr<Arena> arenas_[kRowsTogether];
  int held_ = 0;
};

Session::Session(std::shared_ptr<const Program> program, std::vector<Stage> stages, int threads)
    : program_(std::move(program)), stages_(std::move(stages)) {
  if (!program_->finished()) throw PlanError("a session runs a finished program");
  if (threads < 1 || threads > 256) {
    throw PlanError(std::to_string(threads) + " threads, expected 1 to 256");
  }
  int reached = -1;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    std::size_t classes = 0;
    for (const Task& task : stage.tasks) {
      if (!(task.temperature > 0) || std::isinf(task.temperature)) {
        throw PlanError("a temperature of " + std::to_string(task.temperature));
      }
      if (task.classes < 1) throw PlanError(std::to_string(task.classes) + " classes of a task");
      classes += static_cast<std::size_t>(task.classes);
    }
    if (stage.model < 0) {
      reached = -1;
    } else {
      const Model& model = program_->model(stage.model);
      if (reached >= 0 && model.input != reached) {
        throw PlanError(model.name + " does not read what the stage before answers");
      }
      reached = model.output;
    }
    if (stage.exit >= 0 && program_->model(stage.exit).input != reached) {
      throw PlanError(program_->model(stage.exit).name + " does not read what its stage answers");
    }
    if (stage.exit >= 0 && values_of(program_->model(stage.exit).output) != classes) {
      throw PlanError(program_->model(stage.exit).name + " does not answer " +
                      std::to_string(classes) + " classes");
    }
  }
  if (threads > 1) team_ = std::make_unique<Team>(threads);
}

void Session::run(Request& request) {
  if (request.rows < 1 || request.first < 0 || request.first > request.last ||
      request.last >= static_cast<int>(stages_.size())) {
    throw PlanError("stages " + std::to_string(request.first) + " to " +
                    std::to_string(request.last) + " of " + std::to_string(stages_.size()));
  }
  for (int k = request.first; k <= request.last; ++k) {
    if (stages_[k].model < 0) throw PlanError("stage " + std::to_string(k) + " is not here");
    if (request.stages[k].exit && stages_[k].exit < 0) {
      throw PlanError("stage " + std::to_string(k) + " has no exit");
    }
  }
  const int together = std::min(request.rows, kRowsTogether);
  const Lease arenas(*this, together);
  Team::Frame frame(team_.get());
  for (int begin = 0; begin < request.rows; begin += together) {
    const int rows = std::min(together, request.rows - begin);
    const int reached = run_rows(request, begin, rows, arenas, frame);
    if (reached >= 0 && rows == request.rows) {
      request.stopped = reached;
      return;
    }
    const int answer = program_->model(stages_[request.last].model).output;
    for (int row = 0; row < rows; ++row) {
      program_->kernels().export_planes(arenas[row].view(answer),
                                        request.features + (begin + row) * values_of(answer));
    }
  }
  for (int k = request.first; k <= request.last && request.stop; ++k) {
    const Asked& asked = request.stages[k];
    if (asked.exit && asked.least >= asked.threshold) {
      request.stopped = k;
      return;
    }
  }
}

int Session::run_rows(const Request& request, int begin, int rows, const Lease& arenas,
                      Team::Frame& frame) const {
  const int entry = stages_[request.first].model;
  const std::size_t values = values_of(program_->model(entry).input);
  for (int row = 0; row < rows; ++row) {
    load(arenas[row], entry, request.x + (begin + row) * values);
  }
  for (int k = request.first; k <= request.last; ++k) {
    const Stage& stage = stages_[k];
    Asked& asked = request.stages[k];
    const Model& model = program_->model(stage.model);
    auto start = Clock::now();
    for (int row = 0; row < rows; ++row) {
      compute(arenas[row], model, frame);
      check(arenas[row], model);
    }
    asked.stage_ms += since_ms(start);
    if (!asked.exit) continue;
    const Model& exit = program_->model(stage.exit);
    const std::size_t classes = values_of(exit.output);
    start = Clock::now();
    for (int row = 0; row < rows; ++row) {
      compute(arenas[row], exit, frame);
      check(arenas[row], exit);
      const float* logits = arenas[row].view(exit.output).data;
      float* probabilities = asked.probabilities + (begin + row) * classes;
      std::copy_n(logits, classes, asked.logits + (begin + row) * classes);
      for (const Task& task : stage.tasks) {
        program_->kernels().softmax(logits, probabilities, task.classes, task.temperature);
        const float confidence = *std::max_element(probabilities, probabilities + task.classes);
        asked.least = std::min(asked.least, static_cast<double>(confidence));
        logits += task.classes, probabilities += task.classes;
      }
    }
    asked.exit_ms += since_ms(start);
    if (rows == request.rows && request.stop && asked.least >= asked.threshold) return k;
  }
  return -1;
}

std::size_t Session::values_of(int tensor) const {
  const auto [channels, height, width] = program_->shape(tensor);
  return static_cast<std::size_t>(channels) * height * width;
}

void Session::run_model(int number, const float* x, int rows, float* y) {
  const Model& model = program_->model(number);
  const std::size_t values = values_of(model.input), answered = values_of(model.output);
  const Lease arenas(*this, 1);
  Team::Frame frame(team_.get());
  for (int row = 0; row < rows; ++row) {
    load(arenas[0], number, x + row * values);
    compute(arenas[0], model, frame);
    check(arenas[0], model);
    program_->kernels().export_planes(arenas[0].view(model.output), y + row * answered);
  }
}

std::vector<std::vector<double>> Session::time_steps(int number, int rounds) {
  const Model& model = program_->model(number);
  const Lease arenas(*this, 1);
  Team::Frame frame(team_.get());
  std::vector<std::vector<double>> times(model.last - model.first);
  for (int round = 0; round < rounds; ++round) {
    for (int i = model.first; i < model.last; ++i) {
      const auto start = Clock::now();
      execute(arenas[0].bound(i), program_->steps()[i], frame);
      times[i - model.first].push_back(since_ms(start));
    }
  }
  return times;
}

void Session::load(const Arena& arena, int model, const float* row) const {
  const int input = program_->model(model).input;
  if (!program_->kernels().finite(row, static_cast<std::ptrdiff_t>(values_of(input)), 0, 1)) {
    throw NotFinite(program_->model(model).name + ": the input holds a value that is not finite");
  }
  program_->kernels().import_planes(row, arena.view(input), program_->planar(input));
}

void Session::compute(const Arena& arena, const Model& model, Team::Frame& frame) const {
  for (int i = model.first; i < model.last; ++i) {
    const Bound& bound = arena.bound(i);
    // Codes are finite, whatever they were made of.
    if (const auto* coding = std::get_if<Quantise>(&bound.work);
        coding && !finite(program_->kernels(), coding->input)) {
      throw NotFinite(model.name + " holds a value that is not finite");
    }
    execute(bound, program_->steps()[i], frame);
  }
}

void Session::execute(const Bound& bound, const Step& step, Team::Frame& frame) const {
  const Kernels& kernels = program_->kernels();
  const auto& [work, all, grain] = bound;
  const std::int64_t most = std::int64_t{frame.size()} * kPartsPerThread;
  const int wanted = static_cast<int>(std::min(most, step.macs / kPart));
  if (frame.size() == 1 || grain == 0 || wanted < 2) {
    call(kernels, work, all);
    return;
  }
  const int tiles = (all.row_end + grain - 1) / grain;
  const int block_parts = std::min(all.block_end, wanted);
  const int row_parts = std::min(tiles, (wanted + block_parts - 1) / block_parts);
  const Cut cut{&kernels, &bound, block_parts, row_parts};
  frame.share(&Cut::run, &cut, block_parts * row_parts);
}

void Session::check(const Arena& arena, const Model& model) const {
  if (!finite(program_->kernels(), arena.view(model.output))) {
    throw NotFinite(model.name + " gave a value that is not finite");
  }
}

}  // namespace sparse_split
