# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native engine: block-sparse kernels in C++ and the planner that feeds them.

The extension `_native` is built with the package where there is a compiler, and may be absent.
"""
