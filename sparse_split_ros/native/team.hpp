// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Threads that share the layers of one frame.
//
// Within a frame the helpers wait for the next layer actively, for a layer takes microseconds and a
// wake-up as long; between frames they soon sleep. Nobody waits for a helper that has not started:
// what it does not take, the caller does, so a busy machine costs the help and not the frame.
//
// A fork takes the team along and leaves its helpers behind: in the child its frames have one
// thread, and it can be let go of.

#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sparse_split {

class Team {
 public:
  // `threads` counts the caller.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // The team for the length of one frame, if no other frame has it.
  class Frame {
   public:
    explicit Frame(Team* team);
    ~Frame();
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

    // How many threads there are to share work among: 1 where the team was taken, and after a fork.
    int size() const { return team_ == nullptr ? 1 : team_->size(); }
    // Calls task(context, part) for every part from 0 to parts - 1 and returns when all are done.
    void share(void (*task)(const void*, int), const void* context, int parts);

   private:
    Team* team_;
  };

 private:
  void help();
  bool take();
  // Whether this is the process in which the helpers are.
  bool at_home() const;

  const pid_t process_;
  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::unique_ptr<std::condition_variable> wake_;  // a child of a fork cannot destroy it
  std::atomic<bool> taken_{false};
  std::atomic<bool> active_{false};
  bool stopping_ = false;
  // Number of the job in the upper half, parts of it not yet taken in the lower: a part is taken
  // by counting down, which fails where the job is no longer the one that was seen.
  std::atomic<std::uint64_t> left_{0};
  std::atomic<int> done_{0};
  // The job; written only while no part of it is taken.
  void (*task_)(const void*, int) = nullptr;
  const void* context_ = nullptr;
};

}  // namespace sparse_split
