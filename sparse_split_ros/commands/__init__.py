# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The commands of `sparse-split`, a file per group; each adds its own to the parser."""
