// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels on bytes for any machine, to be right, not fast.

#define SPARSE_SPLIT_ISA plain_int8
#define SPARSE_SPLIT_NAME "plain"
#define SPARSE_SPLIT_FAST false
#define SPARSE_SPLIT_LANES 4
#define SPARSE_SPLIT_REGISTERS 16
#include "table_int8.hpp"

namespace sparse_split {

const Int8Kernels* plain_int8_kernels() { return &plain_int8::kInt8Table; }

}  // namespace sparse_split
