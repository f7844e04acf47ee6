// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs a program: stages and exits of a frame in one call, without allocation, early stop included.

#pragma once

#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "program.hpp"
#include "team.hpp"

namespace sparse_split {

// A value that is not finite, where people can find it.
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The models of one stage: numbers of the program's models, -1 where there is none.
struct Stage {
  int model = -1;
  int exit = -1;
  float temperature = 1;
};

constexpr double kNotAsked = std::numeric_limits<double>::quiet_NaN();

// What to run and where the answers go.
struct Request {
  const float* x = nullptr;  // [rows][C][H][W]
  int rows = 0;
  int first = 0, last = 0;            // stages, both included
  std::vector<double> thresholds;     // per stage of the network; kNotAsked leaves its exit out
  bool stop = true;                   // end where every row's confidence reaches the threshold
  float* features = nullptr;          // [rows][C][H][W] after `last`; untouched where stopped
  std::vector<float*> logits;         // per stage, [rows][K]; null where it is not asked
  std::vector<float*> probabilities;  // the same
  std::vector<double> stage_ms, exit_ms;  // per stage, added to
  int stopped = -1;
};

// Memory for one row of one frame, with the program's calls bound to it.
class Arena {
 public:
  explicit Arena(const Program& program);

  Tensor view(int tensor) const { return program_->view(tensor, memory_.get()); }
  const Work& work(int step) const { return works_[step]; }

 private:
  struct Release {
    void operator()(float* memory) const;
  };
  const Program* program_;
  std::unique_ptr<float, Release> memory_;
  std::vector<Work> works_;
};

// Safe for several threads at once: each run takes arenas of its own. One run at a time has the
// team of threads; others meanwhile work on their caller's.
class Session {
 public:
  Session(std::shared_ptr<const Program> program, std::vector<Stage> stages, int threads);

  // Throws NotFinite, and PlanError for stages that are not there.
  void run(Request& request);
  // One model by itself: rows of [C][H][W] to [C][H][W].
  void run_model(int model, const float* x, int rows, float* y);
  // Milliseconds of each step of a model in each of `rounds` rounds, [step][round].
  std::vector<std::vector<double>> time_steps(int model, int rounds);

  const Program& program() const { return *program_; }
  const std::vector<Stage>& stages() const { return stages_; }

 private:
  class Lease;
  // Runs rows `begin` on, which `arenas` has room for, and keeps the least confidence per exit;
  // the stage to stop after, where these rows are all and were sure, or -1.
  int run_rows(Request& request, int begin, int rows, const Lease& arenas, Team::Frame& frame,
               std::vector<double>& least) const;
  std::size_t values_of(int tensor) const;
  void load(const Arena& arena, int model, const float* row) const;
  void compute(const Arena& arena, const Model& model, Team::Frame& frame) const;
  void execute(const Work& work, const Step& step, Team::Frame& frame) const;
  void check(const Arena& arena, const Model& model) const;

  std::shared_ptr<const Program> program_;
  std::vector<Stage> stages_;
  std::unique_ptr<Team> team_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Arena>> idle_;
};

}  // namespace sparse_split
