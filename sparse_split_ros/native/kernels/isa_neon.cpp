// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels for NEON on aarch64, which always has it; none elsewhere.

#include "../kernels.hpp"

#if defined(__aarch64__)
#define SPARSE_SPLIT_ISA neon
#define SPARSE_SPLIT_NAME "neon"
#define SPARSE_SPLIT_LANES 4
#define SPARSE_SPLIT_REGISTERS 32
#include "table.hpp"
#endif

namespace sparse_split {

#if defined(__aarch64__)
const Kernels* neon_kernels() { return &neon::kTable; }
#else
const Kernels* neon_kernels() { return nullptr; }
#endif

}  // namespace sparse_split
