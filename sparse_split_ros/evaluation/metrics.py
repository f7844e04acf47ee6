# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a run was worth: frames and what became of them, in numbers that live and replay share.

Frame rate, missed frames, end-to-end latency and jitter mean what NVIDIA's ros2_benchmark means by
them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sparse_split_ros.policy.decision import Reason, Route

# A fallback is decided when the deadline passes, never before it; timers need this much more.
DEADLINE_GRACE_MS = 5.0

Key = TypeVar('Key', bound=Hashable)


@dataclass(frozen=True)
class Outcome:
    """One frame of a run and what became of it.

    ``time`` is the frame's own, in s since the first one; ``wall`` is when it was published, in s
    since the run began, NaN in virtual time. ``label`` and ``scene`` are the truth where it is
    known. Everything after them is empty when no answer came: then ``route`` is None. ``latency``
    runs from the image's arrival at the head to its decision, ``end_to_end`` from its publication
    to the receipt of its answer; ``offboard``, from sending features to the answer or the deadline,
    and ``tail``, the tail's own share of that, are 0 when none were sent. All of these in ms.
    """

    index: int
    time: float
    wall: float = math.nan
    label: str | None = None
    scene: str | None = None
    answer: str | None = None
    route: Route | None = None
    reason: Reason | None = None
    exit: int = -1
    split: int = -1
    confidence: float = math.nan
    measured_scene: str = ''
    payload_bytes: int = 0
    latency: float = math.nan
    end_to_end: float = math.nan
    compute: float = math.nan
    offboard: float = 0.0
    tail: float = 0.0

    @property
    def received(self) -> float:
        """When the answer was received, in s since the run began; NaN without one."""
        return self.wall + self.end_to_end / 1e3

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None without an answer or without the truth."""
        if self.route is None or self.label is None:
            return None
        return self.answer == self.label


@dataclass(frozen=True)
class Counts:
    """What the head counted: images ``received``, of them ``accepted`` by the worker or not."""

    received: int
    accepted: int
    dropped: int
    rejected: int = 0
    failed: int = 0


def accuracy(outcomes: Iterable[Outcome]) -> float | None:
    """Share of right answers among the answered frames of known truth; None when there is none."""
    results = [outcome.correct for outcome in outcomes if outcome.correct is not None]
    return sum(results) / len(results) if results else None


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share, after Wilson (JASA 22, 1927), which stays in [0, 1].

    Frames of one track resemble each other, so the truth is somewhat less sure than this.
    """
    if count == 0:
        return 0.0, 1.0
    share = right / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def spread(values: Sequence[float], *wanted: str) -> dict[str, float | None]:
    """Mean, maximum and percentiles, by name (``mean``, ``max``, ``p95``); None of no values."""
    if not values:
        return dict.fromkeys(wanted)
    array = np.asarray(values, float)
    functions: dict[str, Callable[[], float]] = {'mean': array.mean, 'max': array.max}
    return {
        name: float(functions[name]() if name in functions else np.percentile(array, int(name[1:])))
        for name in wanted
    }


def grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], Key | None]
) -> dict[Key, list[Outcome]]:
    """Outcomes by ``key``, in order of appearance; those whose key is None are left out."""
    groups: dict[Key, list[Outcome]] = {}
    for outcome in outcomes:
        value = key(outcome)
        if value is not None:
            groups.setdefault(value, []).append(outcome)
    return groups


def confusions(outcomes: Iterable[Outcome]) -> Counter[tuple[str, str]]:
    """How often each (true class, other class answered) happened."""
    return Counter(
        (outcome.label, outcome.answer)
        for outcome in outcomes
        if outcome.correct is False and outcome.label is not None and outcome.answer is not None
    )


def worst(outcomes: Iterable[Outcome], limit: int) -> list[Outcome]:
    """Wrong answers, the most confident first, one per true class and answer."""
    wrong = sorted(
        (outcome for outcome in outcomes if outcome.correct is False),
        key=lambda outcome: (-outcome.confidence, outcome.index),
    )
    first: dict[tuple[str | None, str | None], Outcome] = {}
    for outcome in wrong:
        first.setdefault((outcome.label, outcome.answer), outcome)
    return list(first.values())[:limit]


def summarise(outcomes: Sequence[Outcome], counts: Counts, deadline_ms: float) -> dict[str, Any]:
    """The figures of a run under their stable names, as ``summary.json`` holds them.

    Shares and accuracies are in [0, 1] and None where nothing was there to count. ``payload_bytes``
    is that of frames whose features were sent. ``deadline_hits`` is the share of answers at most
    DEADLINE_GRACE_MS after the deadline.
    """
    answered = [outcome for outcome in outcomes if outcome.route is not None]
    latency = [outcome.latency for outcome in answered]
    end_to_end = [outcome.end_to_end for outcome in answered if outcome.end_to_end >= 0]
    sent = [float(outcome.payload_bytes) for outcome in answered if outcome.payload_bytes]
    trips = [outcome.offboard for outcome in answered if outcome.route is Route.OFFBOARD]
    routes = grouped(answered, lambda outcome: outcome.route)
    exits = grouped(answered, lambda outcome: outcome.exit)
    count = max(1, len(answered))
    hits = sum(value <= deadline_ms + DEADLINE_GRACE_MS for value in latency)
    return {
        'frames': len(outcomes),
        'received': counts.received,
        'accepted': counts.accepted,
        'dropped': counts.dropped,
        'rejected': counts.rejected,
        'failed': counts.failed,
        'answered': len(answered),
        'labelled': sum(outcome.correct is not None for outcome in answered),
        'accuracy': accuracy(answered),
        'accuracy_by_route': {
            route.value: accuracy(routes.get(route, ())) for route in Route
        },
        'accuracy_by_scene': {
            scene: accuracy(group)
            for scene, group in grouped(answered, lambda outcome: outcome.scene).items()
        },
        'route_share': {route.value: len(routes.get(route, ())) / count for route in Route},
        'exit_share': {str(stage): len(exits[stage]) / count for stage in sorted(exits)},
        'reasons': {
            reason.value: len(group)
            for reason, group in grouped(answered, lambda outcome: outcome.reason).items()
        },
        'latency_ms': spread(latency, 'mean', 'p50', 'p95', 'p99', 'max'),
        'latency_by_route_ms': {
            route.value: spread(
                [outcome.latency for outcome in routes.get(route, ())],
                'mean', 'p50', 'p95', 'p99', 'max',
            )
            for route in Route
        },
        'end_to_end_ms': spread(end_to_end, 'mean', 'p50', 'p95', 'p99', 'max'),
        'round_trip_ms': spread(trips, 'mean', 'p50', 'p95', 'p99', 'max'),
        'jitter_ms': spread(_jitter(answered), 'mean', 'p95', 'max'),
        'mean_frame_rate': _frame_rate(answered),
        'missed_frames': len(outcomes) - len(answered),
        'deadline_ms': deadline_ms,
        'deadline_hits': hits / count if answered else None,
        'payload_bytes': spread(sent, 'mean', 'p95', 'max'),
        'sent_bytes': int(sum(sent)),
    }  # fmt: skip


def _moments(answered: Sequence[Outcome]) -> list[float]:
    """When the answers were received, in s, in order; [] in virtual time."""
    return sorted(each.received for each in answered if not math.isnan(each.received))


def _frame_rate(answered: Sequence[Outcome]) -> float | None:
    moments = _moments(answered)
    if len(moments) < 2 or moments[-1] == moments[0]:
        return None
    return (len(moments) - 1) / (moments[-1] - moments[0])


def _jitter(answered: Sequence[Outcome]) -> list[float]:
    """By how much each pause between two answers differs from the mean pause, in ms."""
    pauses = np.diff(_moments(answered)) * 1e3
    return np.abs(pauses - pauses.mean()).tolist() if pauses.size else []
