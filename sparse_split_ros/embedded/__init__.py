# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A small runtime with the shape of rclpy that speaks ROS 2's wire protocol without ROS 2."""
