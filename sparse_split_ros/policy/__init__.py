# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where to split, how sure to be and when to ask; knows neither ROS nor networks."""
