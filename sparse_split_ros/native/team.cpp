// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0

#include "team.hpp"

#include <unistd.h>

#include <chrono>
#include <exception>

namespace sparse_split {
namespace {

using Clock = std::chrono::steady_clock;

// Turns of active waiting before the core is offered to others.
constexpr unsigned kPatience = 4096;
// For how long a helper waits for the next frame before it sleeps: to wake it takes a good part of
// a frame, and where frames come one behind the other it need not. In time, for a turn takes 1 to
// 50 ns, as the machine has it.
constexpr std::chrono::microseconds kLinger{100};
// Turns between two looks at the clock, each of which takes as long as some turns.
constexpr unsigned kTurnsPerLook = 64;

void pause_briefly(unsigned& turns) {
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

Team::Team(int threads)
    : process_(getpid()), wake_(std::make_unique<std::condition_variable>()) {
  helpers_.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back(&Team::help, this);
  } catch (const std::exception&) {
    // The system gives no more threads: a team of those that there are.
  }
}

Team::~Team() {
  if (!at_home()) {
    // Left as they are, at the price of their memory: a condition variable is not destroyed before
    // those who wait for it have gone, and the helpers' handles may by now be those of threads that
    // this process has started, so they are not even detached.
    static_cast<void>(wake_.release());
    static_cast<void>(new std::vector<std::thread>(std::move(helpers_)));
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_->notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

bool Team::at_home() const { return getpid() == process_; }

void Team::help() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_->wait(lock, [&] { return stopping_ || active_.load(std::memory_order_relaxed); });
      if (stopping_) return;
    }
    unsigned turns = 0;
    Clock::time_point until;
    for (;;) {
      if (take()) {
        turns = 0;
        continue;
      }
      // A core that was offered may be away for milliseconds, so then every turn looks.
      if (turns % kTurnsPerLook == 0 || turns > kPatience) {
        const Clock::time_point now = Clock::now();
        if (turns == 0 || active_.load(std::memory_order_acquire)) {
          until = now + kLinger;
        } else if (now >= until) {
          break;
        }
      }
      pause_briefly(turns);
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
  if (team_ == nullptr || team_->size() == 1 || !team_->at_home() ||
      team_->taken_.exchange(true)) {
    team_ = nullptr;
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(team_->mutex_);
    team_->active_.store(true, std::memory_order_release);
  }
  team_->wake_->notify_all();
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
  unsigned turns = 0;
  while (team_->done_.load(std::memory_order_acquire) < parts) pause_briefly(turns);
}

}  // namespace sparse_split
