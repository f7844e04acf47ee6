// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs a program: stages and exits of a frame in one call, early stop included. A frame allocates
// nothing once as many frames as now have run at once.

#pragma once

#include <unistd.h>

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

// One of the tasks that an exit answers: so many of its logits, and their temperature.
struct Task {
  int classes = 0;
  float temperature = 1;
};

// The models of one stage: numbers of the program's models, -1 where there is none. The exit's
// logits are those of its tasks, one task behind the other.
struct Stage {
  int model = -1;
  int exit = -1;
  std::vector<Task> tasks{};
};

// What is asked of a stage of the network, and what it took.
struct Asked {
  bool exit = false;                 // run its exit
  double threshold = 0;              // the confidence that is enough
  float* logits = nullptr;           // [rows][K], where the exit is asked for
  float* probabilities = nullptr;    // the same
  double stage_ms = 0, exit_ms = 0;  // added to
  double least = std::numeric_limits<double>::infinity();  // confidence of any row and task
};

// What to run and where the answers go.
struct Request {
  const float* x = nullptr;  // [rows][C][H][W]
  int rows = 0;
  int first = 0, last = 0;    // stages, both included
  bool stop = true;           // end where every row's confidence reaches the threshold
  float* features = nullptr;  // [rows][C][H][W] after `last`; untouched where stopped
  Asked* stages = nullptr;    // one for each stage of the network
  int stopped = -1;
};

// A kernel call in an arena: all that it computes, and the rows by which it is best cut (0: it
// cannot be).
struct Bound {
  Work work;
  Range all;
  int grain;
};

// Memory for one row of one frame, with the program's calls bound to it.
class Arena {
 public:
  explicit Arena(const Program& program);

  Tensor view(int tensor) const { return program_->view(tensor, memory()); }
  const Bound& bound(int step) const { return bound_[step]; }

 private:
  float* memory() const { return static_cast<float*>(memory_.get()); }

  const Program* program_;
  std::unique_ptr<void, Free> memory_;
  std::vector<Bound> bound_;
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
  // Runs rows `begin` on, which `arenas` has room for; the stage to stop after, where these rows
  // are all and were sure, or -1.
  int run_rows(const Request& request, int begin, int rows, const Lease& arenas,
               Team::Frame& frame) const;
  std::size_t values_of(int tensor) const;
  void load(const Arena& arena, int model, const float* row) const;
  void compute(const Arena& arena, const Model& model, Team::Frame& frame) const;
  void execute(const Bound& bound, const Step& step, Team::Frame& frame) const;
  void check(const Arena& arena, const Model& model) const;

  std::shared_ptr<const Program> program_;
  std::vector<Stage> stages_;
  std::unique_ptr<Team> team_;
  const pid_t process_ = getpid();  // the child of a fork may find the mutex held, for ever
  std::mutex mutex_;
  std::vector<std::unique_ptr<Arena>> idle_;
};

}  // namespace sparse_split
