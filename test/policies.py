# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of policies share: facts of a small network, decisions, replies."""

from __future__ import annotations

import numpy as np

from sparse_split_ros.link.frame import ReplyFrame, Status
from sparse_split_ros.policy.decision import Decision, ExitAnswer, Reason, Route
from sparse_split_ros.policy.facts import Coding, Facts
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene

CLASSES = 43
FACTS = Facts(
    fingerprint='ab' * 8,
    classes=CLASSES,
    macs=(3_000_000, 1_200_000, 9_400_000, 4_600_000),
    exits={0: 600_000, 1: 500_000, 2: 500_000, 3: 20_000},
    codings={
        split: {'fp16': Coding(400.0, 0.004), 'int4': Coding(100.0, 0.005)} for split in (0, 1, 2)
    },
    default=(1, 0.9, 'int4'),
)
DAY = Scene(name='day')


def scores(label: int, confidence: float) -> np.ndarray:
    values = np.zeros(CLASSES, np.float32)
    values[label] = confidence
    return values


def decision(
    plan: Plan,
    exits: dict[int, tuple[int, float]],
    route: Route = Route.LOCAL,
    answer: tuple[int, float] | None = None,
    sequence: int = 0,
    audit: bool = False,
    scene: Scene = DAY,
) -> Decision:
    """A decision; ``exits`` stage -> (label, confidence), ``answer`` the tail's."""
    seen = tuple(ExitAnswer(stage, *value) for stage, value in exits.items())
    label, confidence = answer or (seen[-1].label, seen[-1].confidence)
    return Decision(
        sequence=sequence,
        source=0,
        header=None,
        route=route,
        reason=Reason.CONFIDENT,
        exit=seen[-1].stage,
        scores=scores(label, confidence),
        confidence=confidence,
        threshold=0.9,
        plan=plan,
        scene=scene,
        payload_bytes=100 if route is not Route.LOCAL or audit else 0,
        audit=audit,
        exits=seen,
    )


def reply(sequence: int, label: int, confidence: float = 0.9) -> ReplyFrame:
    return ReplyFrame(Status.OK, b'\0' * 8, 1, sequence, scores(label, confidence))
