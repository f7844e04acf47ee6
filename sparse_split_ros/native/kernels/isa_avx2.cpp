// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels for AVX2 and FMA; none where the compiler was not told to use them.

#include "../kernels.hpp"

#if defined(__AVX2__) && defined(__FMA__)
#define SPARSE_SPLIT_ISA avx2
#define SPARSE_SPLIT_NAME "avx2"
#define SPARSE_SPLIT_LANES 8
#define SPARSE_SPLIT_REGISTERS 16
#include "table.hpp"
#endif

namespace sparse_split {

#if defined(__AVX2__) && defined(__FMA__)
const Kernels* avx2_kernels() { return &avx2::kTable; }
#else
const Kernels* avx2_kernels() { return nullptr; }
#endif

}  // namespace sparse_split
