# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every quality of service this package uses, each with its reason."""

from __future__ import annotations

from sparse_split_ros.ros import (
    Clock,
    ClockType,
    DurabilityPolicy,
    HistoryPolicy,
    QoSOverridingOptions,
    QoSProfile,
    ReliabilityPolicy,
)

_BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT
_RELIABLE = ReliabilityPolicy.RELIABLE
_KEEP_LAST = HistoryPolicy.KEEP_LAST

# The freshest frame; best effort matches every publisher.
IMAGE = QoSProfile(history=_KEEP_LAST, depth=1, reliability=_BEST_EFFORT)

# A late feature frame is worth nothing, so none is sent again; as deep as frames are in flight.
WIRE = QoSProfile(history=_KEEP_LAST, depth=64, reliability=_BEST_EFFORT)
RELIABLE_WIRE = QoSProfile(history=_KEEP_LAST, depth=64, reliability=_RELIABLE)

# Results reach subscribers with default settings, and a slow one holds nobody up.
RESULT = QoSProfile(history=_KEEP_LAST, depth=10, reliability=_RELIABLE)

# What those who join late need to know first.
LATCHED = QoSProfile(
    history=_KEEP_LAST,
    depth=1,
    reliability=_RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# ``qos_overrides./features.publisher.reliability`` and the like, in a parameter file.
OVERRIDABLE = QoSOverridingOptions.with_default_policies()


def steady_clock() -> Clock:
    """For timers that must not stall or jump with ROS time in a replay."""
    return Clock(clock_type=ClockType.STEADY_TIME)
