# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Predefined sparsity: which connections exist (numpy), and layers that hold only those (torch)."""
