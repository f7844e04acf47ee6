// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0

#include "team.hpp"

namespace sparse_split {
namespace {

// Turns of active waiting before the core is offered to others.
constexpr int kPatience = 4096;
// Turns for which a helper waits for the next frame before it sleeps, some 100 µs: to wake it takes
// a good part of a frame, and where frames come one behind the other it need not.
constexpr int kLinger = 2048;

void pause_briefly(int& turns) {
  if (++turns > kPatience) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int threads) {
  helpers_.reserve(threads > 1 ? threads - 1 : 0);
  for (int i = 1; i < threads; ++i) helpers_.emplace_back(&Team::help, this);
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Team::help() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || active_.load(std::memory_order_relaxed); });
      if (stopping_) return;
    }
    int turns = 0;
    while (active_.load(std::memory_order_acquire) || turns < kLinger) {
      if (take()) {
        turns = 0;
      } else {
        pause_briefly(turns);
      }
    }
  }
}

bool Team::take() {
  std::uint64_t seen = left_.load(std::memory_order_acquire);
  do {
    if ((seen & 0xFFFFFFFFu) == 0) return false;
  } while (!left_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire));
  task_(context_, static_cast<int>(seen & 0xFFFFFFFFu) - 1);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

Team::Frame::Frame(Team* team) : team_(team) {
  if (team_ == nullptr || team_->size() == 1 || team_->taken_.exchange(true)) {
    team_ = nullptr;
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(team_->mutex_);
    team_->active_.store(true, std::memory_order_release);
  }
  team_->wake_.notify_all();
}

Team::Frame::~Frame() {
  if (team_ == nullptr) return;
  team_->active_.store(false, std::memory_order_release);
  team_->taken_.store(false, std::memory_order_release);
}

void Team::Frame::share(void (*task)(const void*, int), const void* context, int parts) {
  if (team_ == nullptr || parts == 1) {
    for (int part = 0; part < parts; ++part) task(context, part);
    return;
  }
  team_->task_ = task;
  team_->context_ = context;
  team_->done_.store(0, std::memory_order_relaxed);
  const std::uint64_t job = (team_->left_.load(std::memory_order_relaxed) >> 32) + 1;
  team_->left_.store(job << 32 | static_cast<std::uint32_t>(parts), std::memory_order_release);
  while (team_->take()) {
  }
  int turns = 0;
  while (team_->done_.load(std::memory_order_acquire) < parts) pause_briefly(turns);
}

}  // namespace sparse_split
