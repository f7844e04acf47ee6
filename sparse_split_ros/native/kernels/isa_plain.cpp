// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels for any machine: vectors of four, which are SSE registers on x86-64.

#define SPARSE_SPLIT_ISA plain
#define SPARSE_SPLIT_NAME "plain"
#define SPARSE_SPLIT_LANES 4
#define SPARSE_SPLIT_REGISTERS 16
#include "table.hpp"

namespace sparse_split {

const Kernels* plain_kernels() { return &plain::kTable; }

}  // namespace sparse_split
