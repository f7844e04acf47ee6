# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A perception node that knows when to think on the robot and when to ask for help."""

__version__ = '0.1.0'
