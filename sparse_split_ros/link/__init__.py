# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What crosses the network between head and tail: frames, codecs, the state of the other side."""
