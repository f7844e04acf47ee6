// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels for AVX-512 (F, BW, DQ, VL); none where the compiler was not told to use them.

#include "../kernels.hpp"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SPARSE_SPLIT_ISA avx512
#define SPARSE_SPLIT_NAME "avx512"
#define SPARSE_SPLIT_LANES 16
#define SPARSE_SPLIT_REGISTERS 32
#include "table.hpp"
#endif

namespace sparse_split {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
const Kernels* avx512_kernels() { return &avx512::kTable; }
#else
const Kernels* avx512_kernels() { return nullptr; }
#endif

}  // namespace sparse_split
