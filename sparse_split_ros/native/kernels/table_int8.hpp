// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of the kernels on bytes, for the instruction set that the including file names.

#pragma once

#include "conv_int8.hpp"
#include "other_int8.hpp"

namespace sparse_split {
namespace SPARSE_SPLIT_ISA {

constexpr Int8Kernels kInt8Table = {
    SPARSE_SPLIT_NAME, SPARSE_SPLIT_FAST, conv_int8, quantise, dequantise, fill_border_int8,
};

}  // namespace SPARSE_SPLIT_ISA
}  // namespace sparse_split
