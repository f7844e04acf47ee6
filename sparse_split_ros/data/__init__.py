# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets, drawn signs, weather, the drive, and bags."""
