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
from sparse_split_ros.runtime.bundle import BETWEEN_TASKS

# A fallback is decided when the deadline passes, never before it; timers need this much more.
DEADLINE_GRACE_MS = 5.0
SUMMARY_FORMAT = 'sparse_split_summary/1'

Key = TypeVar('Key', bound=Hashable)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One frame of a run and what became of it.

    ``time`` is the frame's own, in s since the first one; ``wall`` is when it was published, in s
    since the run began. ``label`` and ``scene`` are the truth where it is known. Of several tasks
    ``label`` and ``answer`` name a class each (see ``Bundle.named``), ``label`` '' where the truth
    of a task is not known. Everything after
    them is empty for a frame that was never decided: then ``route`` is None. ``answer`` None with a
    route is a rival of the head that had nothing to say. ``latency`` runs from the image's arrival
    at the head to its decision, ``end_to_end`` from its publication to the receipt of its answer;
    ``offboard``, from sending to the answer or the deadline, and ``tail``, the tail's own share of
    that, are 0 when nothing was sent. All of these in ms. Known in replay only: ``full``, what the
    full, uncompressed network says; ``macs`` on the robot; ``cost`` in ms equivalents; the
    ``tail_state`` and round-trip time ``rtt`` in ms as the head saw them, and the ``file`` of an
    image that has one of its own.
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
    queue: float = math.nan
    prepare: float = math.nan
    codec: str = ''
    threshold: float = math.nan
    audit: bool = False
    full: str | None = None
    macs: int = 0
    cost: float = math.nan
    tail_state: str = ''
    rtt: float = math.nan
    file: str = ''

    @property
    def received(self) -> float:
        """When the answer was received, in s since the run began; NaN without one."""
        return self.wall + self.end_to_end / 1e3

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right, as far as the truth is known; None where it is not.

        Of several tasks, all have to be right.
        """
        if self.route is None or self.label is None:
            return None
        return agrees(self.answer, self.label)

    @property
    def where(self) -> str | None:
        """The true scene, or else the one that the head measured; None where neither is known."""
        return self.scene or self.measured_scene or None

    @property
    def differs(self) -> bool | None:
        """Whether the answer is not the full network's; None where either is not known."""
        if self.route is None or self.full is None or self.answer is None:
            return None
        return self.answer != self.full


@dataclass(frozen=True)
class Counts:
    """What the head counted: images ``received``, of them ``accepted`` by the worker or not."""

    received: int
    accepted: int
    dropped: int
    rejected: int = 0
    failed: int = 0


def agrees(answer: str | None, label: str) -> bool:
    """Whether an answer is the label; of several tasks, as far as the label names their classes."""
    return answer == label or False not in by_task(answer, label)


def by_task(answer: str | None, label: str) -> list[bool | None]:
    """Whether each task's answer is right; None where the label does not name its class."""
    if answer is None:
        return [False]
    said, true = answer.split(BETWEEN_TASKS), label.split(BETWEEN_TASKS)
    if len(said) != len(true):
        return [False]
    return [one == other if other else None for one, other in zip(said, true)]


def accuracy(outcomes: Iterable[Outcome]) -> float | None:
    """Share of right answers among the answered frames of known truth; None when there is none."""
    results = [outcome.correct for outcome in outcomes if outcome.correct is not None]
    return sum(results) / len(results) if results else None


def accuracy_by_task(outcomes: Iterable[Outcome], tasks: Sequence[str]) -> dict[str, float | None]:
    """Share of right answers of each task whose truth is known; None where there is none."""
    known = [each for each in outcomes if each.route is not None and each.answer is not None]
    rows = [by_task(each.answer, each.label) for each in known if each.label is not None]
    return {
        name: _mean([right for row in rows if (right := row[at]) is not None])
        for at, name in enumerate(tasks)
    }


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The confidence interval of a share, after Wilson (JASA 22, 1927), which stays in [0, 1].

    It is of 95 % with this `z`, the standard deviations to either side. Frames of one track
    resemble each other, so the truth is somewhat less sure than this.
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


def labelled(outcomes: Iterable[Outcome]) -> bool:
    """Whether the truth of any answer is known."""
    return any(each.correct is not None for each in outcomes)


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
        (each for each in outcomes if each.correct is False and each.answer is not None),
        key=lambda outcome: (-outcome.confidence, outcome.index),
    )
    first: dict[tuple[str | None, str | None], Outcome] = {}
    for outcome in wrong:
        first.setdefault((outcome.label, outcome.answer), outcome)
    return list(first.values())[:limit]


def reliability(outcomes: Iterable[Outcome], bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, count) of answers of known truth by equal steps of confidence.

    Bins without an answer are left out.
    """
    known = [(each.confidence, each.correct is True) for each in outcomes
             if each.correct is not None and each.answer is not None]  # fmt: skip
    if not known:
        return []
    confidence, right = (np.array(column, float) for column in zip(*known))
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in (place == index for index in range(bins))
        if here.any()
    ]


def calibration_error(outcomes: Iterable[Outcome]) -> float | None:
    """Expected calibration error over ten bins (Guo et al., ICML 2017); None without any truth."""
    bins = reliability(outcomes)
    total = sum(count for _, _, count in bins)
    return sum(abs(mean - share) * count for mean, share, count in bins) / total if total else None


def summarise(
    outcomes: Sequence[Outcome], counts: Counts, deadline_ms: float, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of a run under their stable names, as ``summary.json`` holds them.

    Shares and accuracies are in [0, 1] and None where nothing was there to count. ``payload_bytes``
    is that of frames that sent something. ``deadline_hits`` is the share of decided frames with an
    answer at most DEADLINE_GRACE_MS after the deadline. Where a decision is no answer, it is wrong.
    ``disagreement`` is that of local and offboard answers with the full network: fallbacks are
    promised nothing. Of several ``tasks``, ``accuracy`` counts what every one is right of, as far
    as the truth is known, and ``accuracy_by_task`` those of each.
    """
    decided = [outcome for outcome in outcomes if outcome.route is not None]
    answered = [outcome for outcome in decided if outcome.answer is not None]
    latency = [outcome.latency for outcome in decided]
    end_to_end = [outcome.end_to_end for outcome in answered if outcome.end_to_end >= 0]
    sent = [float(outcome.payload_bytes) for outcome in decided if outcome.payload_bytes]
    trips = [outcome.offboard for outcome in decided if outcome.route is Route.OFFBOARD]
    routes = grouped(decided, lambda outcome: outcome.route)
    exits = grouped(decided, lambda outcome: outcome.exit)
    count = max(1, len(decided))
    hits = sum(outcome.latency <= deadline_ms + DEADLINE_GRACE_MS for outcome in answered)
    differing = [
        outcome.differs for outcome in answered
        if outcome.differs is not None and outcome.route is not Route.FALLBACK
    ]  # fmt: skip
    replayed = [outcome for outcome in decided if outcome.full is not None]
    return {
        'frames': len(outcomes),
        'received': counts.received,
        'accepted': counts.accepted,
        'dropped': counts.dropped,
        'rejected': counts.rejected,
        'failed': counts.failed,
        'answered': len(answered),
        'labelled': sum(outcome.correct is not None for outcome in decided),
        'accuracy': accuracy(decided),
        **({'accuracy_by_task': accuracy_by_task(decided, tasks)} if len(tasks) > 1 else {}),
        'accuracy_by_route': {
            route.value: accuracy(routes.get(route, ())) for route in Route
        },
        'accuracy_by_scene': {
            scene: accuracy(group)
            for scene, group in grouped(decided, lambda outcome: outcome.where).items()
        },
        'accuracy_full': _accuracy_full(replayed),
        'calibration_error': calibration_error(answered),
        'disagreement': _mean(differing),
        'route_share': {route.value: len(routes.get(route, ())) / count for route in Route},
        'exit_share': {str(stage): len(exits[stage]) / count for stage in sorted(exits)},
        'audit_share': sum(outcome.audit for outcome in decided) / count,
        'reasons': {
            reason.value: len(group)
            for reason, group in grouped(decided, lambda outcome: outcome.reason).items()
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
        'deadline_hits': hits / count if decided else None,
        'payload_bytes': spread(sent, 'mean', 'p95', 'max'),
        'sent_bytes': int(sum(sent)),
        'robot_macs_mean': _mean([outcome.macs for outcome in replayed]),
        'cost_mean': _mean([each.cost for each in decided if not math.isnan(each.cost)]),
    }  # fmt: skip


def _mean(values: Sequence[float | bool]) -> float | None:
    return float(sum(values) / len(values)) if values else None


def _accuracy_full(replayed: Sequence[Outcome]) -> float | None:
    """What the full network would have achieved on the same frames."""
    return _mean([agrees(each.full, each.label) for each in replayed if each.label is not None])


def _moments(answered: Sequence[Outcome]) -> list[float]:
    """When the answers were received, in s, in order."""
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
