// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// How long a helper stays awake after a frame, by a clock that stands still until it is set: so it
// does not matter how busy the machine is. test_native_team.py compiles this with team.cpp.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "team.hpp"

namespace {

using sparse_split::Team;

std::atomic<long> now_us{0};
std::atomic<long> looks{0};

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::_Exit(1);
}

// Whether somebody goes on looking at the clock: a helper does while it is awake.
bool awake() {
  const long before = looks;
  for (int ms = 0; ms < 20'000 && looks - before < 100; ++ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return looks - before >= 100;
}

bool falls_asleep() {
  for (int tries = 0; tries < 200; ++tries) {
    const long before = looks;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (looks == before) return true;
  }
  return false;
}

// Two parts that end when both have begun, so that the helper has come.
void meet(Team::Frame& frame) {
  std::atomic<int> here{0};
  frame.share(
      [](const void* context, int) {
        auto& count = *const_cast<std::atomic<int>*>(static_cast<const std::atomic<int>*>(context));
        ++count;
        while (count < 2) std::this_thread::yield();
      },
      &here, 2);
}

}  // namespace

// In place of the library's.
std::chrono::steady_clock::time_point std::chrono::steady_clock::now() noexcept {
  ++looks;
  return time_point(std::chrono::microseconds(now_us.load()));
}

int main() {
  Team team(2);
  for (int round = 0; round < 2; ++round) {
    {
      Team::Frame frame(&team);
      meet(frame);
      now_us += 1'000'000;
      expect(awake(), "nobody looks at the clock in a frame");
    }
    expect(awake(), "a helper sleeps as soon as its frame ends");
    now_us += 99;
    expect(awake(), "a helper sleeps before 100 µs have passed");
    now_us += 1;
    expect(falls_asleep(), "a helper is awake after 100 µs");
  }
  std::printf("slept in time\n");
}
