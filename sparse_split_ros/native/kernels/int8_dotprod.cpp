// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels on bytes for aarch64 with dot products; none where the compiler was not told to.

#include "../int8.hpp"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define SPARSE_SPLIT_ISA dotprod
#define SPARSE_SPLIT_NAME "dotprod"
#define SPARSE_SPLIT_FAST true
#define SPARSE_SPLIT_LANES 4
#define SPARSE_SPLIT_REGISTERS 32
#include "table_int8.hpp"
#endif

namespace sparse_split {

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
const Int8Kernels* dotprod_kernels() { return &dotprod::kInt8Table; }
#else
const Int8Kernels* dotprod_kernels() { return nullptr; }
#endif

}  // namespace sparse_split
