// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// Which kernels this machine can run, found out once.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "int8.hpp"
#include "kernels.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace sparse_split {

// Null where this build does not have them: kernels/isa_*.cpp and kernels/int8_*.cpp.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels* plain_kernels();
const Int8Kernels* vnni_kernels();
const Int8Kernels* dotprod_kernels();
const Int8Kernels* plain_int8_kernels();

namespace {

#if defined(__x86_64__) || defined(__i386__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#else
bool has_avx512() { return false; }
bool has_avx2() { return false; }
bool has_vnni() { return false; }
#endif

bool has_dotprod() {
#if defined(__aarch64__) && defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__ARM_FEATURE_DOTPROD)
  return true;
#else
  return false;
#endif
}

// Tables that this machine can run, fastest first, null at the end.
template <typename Table>
class Tables {
 public:
  void add(const Table* table, bool runs) {
    if (table != nullptr && runs) list_[count_++] = table;
  }
  const Table* find(const char* name) const {
    for (int i = 0; i < count_; ++i) {
      if (std::strcmp(list_[i]->name, name) == 0) return list_[i];
    }
    return nullptr;
  }
  const Table& fastest() const { return *list_[0]; }
  const Table* const* list() const { return list_; }

 private:
  const Table* list_[5] = {};
  int count_ = 0;
};

const Tables<Kernels>& tables() {
  static const Tables<Kernels> found = [] {
    Tables<Kernels> tables;
    tables.add(avx512_kernels(), has_avx512());
    tables.add(avx2_kernels(), has_avx2());
    tables.add(neon_kernels(), true);
    tables.add(plain_kernels(), true);
    return tables;
  }();
  return found;
}

const Tables<Int8Kernels>& int8_tables() {
  static const Tables<Int8Kernels> found = [] {
    Tables<Int8Kernels> tables;
    tables.add(vnni_kernels(), has_vnni());
    tables.add(dotprod_kernels(), has_dotprod());
    tables.add(plain_int8_kernels(), true);
    return tables;
  }();
  return found;
}

}  // namespace

const Kernels& best() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    const char* name = std::getenv("SPARSE_SPLIT_ISA");
    const Kernels* named = name != nullptr ? find(name) : nullptr;
    return named != nullptr ? *named : tables().fastest();
  }();
  return chosen;
}
const Kernels* find(const char* name) { return tables().find(name); }
const Kernels* const* available() { return tables().list(); }

const Int8Kernels& best_int8() {
  // Where less than the machine has is asked for, bytes do without it as well.
  const bool restricted = &best() != &tables().fastest();
  return restricted ? *plain_int8_kernels() : int8_tables().fastest();
}
const Int8Kernels* find_int8(const char* name) { return int8_tables().find(name); }
const Int8Kernels* const* available_int8() { return int8_tables().list(); }

double peak_gmacs(const Kernels& kernels, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  double best = 0;
  do {
    // Short runs, of which the fastest counts: it is the one that nothing interrupted.
    const auto start = Clock::now();
    const double count = static_cast<double>(kernels.spin(100000));
    const double taken = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, count / taken * 1e-9);
  } while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds);
  return best;
}

}  // namespace sparse_split
