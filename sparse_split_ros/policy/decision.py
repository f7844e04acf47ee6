# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What became of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.policy.tasks import judge


class Route(str, Enum):
    """Who answered."""

    LOCAL = 'local'  # an exit on the robot, sure enough
    OFFBOARD = 'offboard'  # the tail
    FALLBACK = 'fallback'  # help was wanted and did not come: the deepest exit on the robot


class Reason(str, Enum):
    """Why this route."""

    CONFIDENT = 'confident'
    ANSWERED = 'answered'
    DEADLINE = 'deadline missed'
    TAIL_UNKNOWN = 'no tail heard of'
    TAIL_DOWN = 'tail down'
    TAIL_FOREIGN = 'tail does not fit'
    TAIL_REFUSED = 'tail refused'
    NO_TIME = 'no time left to ask'
    FULL = 'too many in flight'
    UNSENDABLE = 'features cannot be coded'
    SHUTDOWN = 'shutdown'


@dataclass(frozen=True)
class Times:
    """Where a frame's time went, in ms.

    ``queue`` from arrival to acceptance, ``prepare`` for decoding, resizing and scene, ``compute``
    for the network and its encoder, ``offboard`` from sending to the answer or the deadline,
    ``tail`` the tail's own share of that, ``total`` from arrival to decision.
    """

    queue: float = 0.0
    prepare: float = 0.0
    compute: float = 0.0
    offboard: float = 0.0
    tail: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class ExitAnswer:
    """What an exit on the robot said: its most probable class, and how probable that is.

    Of several tasks they are the label and the confidence of :func:`~.tasks.judge`.
    """

    stage: int
    label: int
    confidence: float


@dataclass(frozen=True)
class Decision:
    """The one final word on an accepted frame.

    ``header`` is the image's, carried through untouched. ``scores`` are class probabilities of
    shape (K,), float32. ``exit`` is the stage whose exit answered, ``threshold`` the one it was
    held against. ``payload_bytes`` is the whole feature frame, 0 when none was sent. ``exits`` are
    all exits that were evaluated on the robot, shallow first, and ``stage_ms`` and ``exit_ms`` what
    each stage and exit took; policies learn from them, and from nothing where they are empty.
    ``sizes`` are how many classes each task in ``scores`` has; it is one where that is empty.
    """

    sequence: int
    source: int
    header: Any
    route: Route
    reason: Reason
    exit: int
    scores: NDArray[np.float32] = field(repr=False)
    confidence: float
    threshold: float
    plan: Plan
    scene: Scene
    payload_bytes: int = 0
    audit: bool = False
    times: Times = Times()
    exits: tuple[ExitAnswer, ...] = ()
    stage_ms: Mapping[int, float] = field(default_factory=dict)
    exit_ms: Mapping[int, float] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    @property
    def label(self) -> int:
        """The index of the most probable class; of several tasks, their classes' together."""
        return int(judge(self.scores, self.sizes or self.scores.shape)[0])
