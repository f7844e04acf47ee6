# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot or a tail executes: bundle, engine, head and tail, without ROS and torch."""
