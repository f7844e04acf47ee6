// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels on bytes for AVX-512 VNNI; none where the compiler was not told to use it.

#include "../int8.hpp"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SPARSE_SPLIT_ISA vnni
#define SPARSE_SPLIT_NAME "vnni"
#define SPARSE_SPLIT_FAST true
#define SPARSE_SPLIT_LANES 16
#define SPARSE_SPLIT_REGISTERS 32
#include "table_int8.hpp"
#endif

namespace sparse_split {

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
const Int8Kernels* vnni_kernels() { return &vnni::kInt8Table; }
#else
const Int8Kernels* vnni_kernels() { return nullptr; }
#endif

}  // namespace sparse_split
