# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes: thin, they turn messages into run-time calls and back."""
