# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every quality of service this package uses, each with its reason."""

from __future__ import annotations

from copy import copy
from typing import Any

from sparse_split_ros.ros import (
    Clock,
    ClockType,
    DurabilityPolicy,
    HistoryPolicy,
    QoSOverridingOptions,
    QoSProfile,
    ReliabilityPolicy,
    SetParametersResult,
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


def _check(profile: QoSProfile) -> SetParametersResult:
    """Refuse what some middlewares refuse without a word about the policy that is wrong."""
    reason = '' if profile.depth >= 0 else f'depth is {profile.depth}, expected 0 or more'
    return SetParametersResult(successful=not reason, reason=reason)


_OVERRIDES = QoSOverridingOptions.with_default_policies(callback=_check)


def overridable(profile: QoSProfile) -> dict[str, Any]:
    """The arguments of a publisher or subscription that a parameter file may set otherwise.

    By ``qos_overrides./features.publisher.reliability`` and the like. rclpy writes these into the
    profile it is given; without a copy, what is set for features would hold for replies as well.
    """
    return {'qos_profile': copy(profile), 'qos_overriding_options': _OVERRIDES}


def steady_clock() -> Clock:
    """For timers that must not stall or jump with ROS time in a replay."""
    return Clock(clock_type=ClockType.STEADY_TIME)
