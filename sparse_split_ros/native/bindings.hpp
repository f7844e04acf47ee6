// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// The parts of the Python module `_native`, each added by one file.

#pragma once

#include <pybind11/pybind11.h>

namespace sparse_split {

// Submodule `kernels`: single kernels on numpy arrays, for tests and benchmarks.
void bind_kernels(pybind11::module_& native);
// Adds those on integers of 8 bits to it.
void bind_int8(pybind11::module_& kernels);

}  // namespace sparse_split
