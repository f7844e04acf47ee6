# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of a run, checked by hand on a few frames."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from sparse_split_ros.evaluation.metrics import (
    DEADLINE_GRACE_MS,
    Counts,
    Outcome,
    accuracy,
    calibration_error,
    confusions,
    reliability,
    spread,
    summarise,
    wilson,
    worst,
)
from sparse_split_ros.policy.decision import Reason, Route

DEADLINE_MS = 100.0


def outcome(index: int, route: Route | None = Route.LOCAL, right: bool = True, **given) -> Outcome:
    answer = None if route is None else 'stop' if right else 'yield'
    values = {'exit': 0, 'confidence': 0.9, 'latency': 2.0, 'reason': Reason.CONFIDENT} | given
    frame = Outcome(index, index / 30, index / 30, 'stop', 'day')
    return frame if route is None else replace(frame, answer=answer, route=route, **values)


@pytest.fixture
def mixed() -> list[Outcome]:
    """Two local answers, one wrong; one offboard; one fallback; one frame without an answer."""
    return [
        outcome(0),
        outcome(1, right=False, confidence=0.95),
        outcome(2, Route.OFFBOARD, exit=2, payload_bytes=300, latency=10.0, offboard=8.0),
        outcome(3, Route.FALLBACK, exit=1, payload_bytes=200, latency=DEADLINE_MS),
        outcome(4, None),
    ]


def test_summary_counts_every_frame_once(mixed: list[Outcome]) -> None:
    summary = summarise(mixed, Counts(5, 4, 1), DEADLINE_MS)
    names = ('frames', 'received', 'accepted', 'dropped', 'answered', 'missed_frames')
    assert [summary[name] for name in names] == [5, 5, 4, 1, 4, 1]
    assert sum(summary['route_share'].values()) == pytest.approx(1)
    assert sum(summary['exit_share'].values()) == pytest.approx(1)
    assert sum(summary['reasons'].values()) == 4


def test_accuracy_is_of_answered_frames_only(mixed: list[Outcome]) -> None:
    summary = summarise(mixed, Counts(5, 4, 1), DEADLINE_MS)
    assert summary['accuracy'] == 3 / 4
    assert summary['accuracy_by_route'] == {'local': 0.5, 'offboard': 1.0, 'fallback': 1.0}
    assert summary['accuracy_by_scene'] == {'day': 3 / 4}


def test_payload_is_of_frames_that_were_sent(mixed: list[Outcome]) -> None:
    summary = summarise(mixed, Counts(5, 4, 1), DEADLINE_MS)
    assert summary['payload_bytes'] == {'mean': 250.0, 'p95': pytest.approx(295), 'max': 300.0}
    assert summary['sent_bytes'] == 500


@pytest.mark.parametrize(
    ('latency', 'hits'),
    [(DEADLINE_MS + DEADLINE_GRACE_MS, 1.0), (DEADLINE_MS + DEADLINE_GRACE_MS + 0.1, 0.5)],
)
def test_a_fallback_at_the_deadline_is_in_time_and_a_later_one_is_not(
    latency: float, hits: float
) -> None:
    frames = [outcome(0), outcome(1, Route.FALLBACK, latency=latency)]
    assert summarise(frames, Counts(2, 2, 0), DEADLINE_MS)['deadline_hits'] == hits


def test_frame_rate_and_jitter_come_from_the_moments_of_the_answers() -> None:
    moments = (0.0, 0.1, 0.2, 0.4)
    frames = [replace(outcome(i), wall=at, end_to_end=5.0) for i, at in enumerate(moments)]
    summary = summarise(frames, Counts(4, 4, 0), DEADLINE_MS)
    assert summary['mean_frame_rate'] == pytest.approx(3 / 0.4)
    assert summary['jitter_ms']['max'] == pytest.approx(200 - 400 / 3)


def test_a_decision_without_an_answer_was_never_received() -> None:
    """As of a robot that sends pictures and hears nothing."""
    frames = [
        replace(outcome(i, Route.FALLBACK), wall=i / 30, end_to_end=DEADLINE_MS, answer=None)
        for i in range(9)
    ]
    summary = summarise(frames, Counts(9, 9, 0), DEADLINE_MS)
    assert summary['mean_frame_rate'] is None
    assert summary['end_to_end_ms']['mean'] is summary['jitter_ms']['mean'] is None


@pytest.mark.parametrize('frames', [[], [outcome(0, None)]])
def test_a_run_without_answers_has_a_summary_that_json_can_hold(frames: list[Outcome]) -> None:
    summary = summarise(frames, Counts(0, 0, 0), DEADLINE_MS)
    assert summary['accuracy'] is None and summary['latency_ms']['p95'] is None
    json.dumps(summary, allow_nan=False)


def test_frames_without_the_truth_are_neither_right_nor_wrong() -> None:
    unknown = replace(outcome(0), label=None)
    assert unknown.correct is None
    assert accuracy([unknown]) is None
    assert accuracy([unknown, outcome(1)]) == 1.0


def test_confusions_count_truth_and_answer() -> None:
    frames = [outcome(0, right=False), outcome(1, right=False), outcome(2), outcome(3, None)]
    assert confusions(frames) == {('stop', 'yield'): 2}


def test_the_worst_frames_are_the_surest_mistakes_once_per_pair_of_classes() -> None:
    frames = [
        outcome(0, right=False, confidence=0.5),
        outcome(1, right=False, confidence=0.8),
        replace(outcome(2, right=False, confidence=0.6), label='no entry'),
        outcome(3, confidence=1.0),
    ]
    assert [each.index for each in worst(frames, 5)] == [1, 2]
    assert [each.index for each in worst(frames, 1)] == [1]


def test_wilson_interval_agrees_with_the_published_example() -> None:
    # Newcombe (Statistics in Medicine 17, 1998), table I, method 3: 81 of 263.
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0


def test_spread_of_one_value_is_that_value() -> None:
    assert spread([3.0], 'mean', 'p99', 'max') == {'mean': 3.0, 'p99': 3.0, 'max': 3.0}


def test_received_is_unknown_without_an_answer() -> None:
    assert math.isnan(outcome(0, None).received)


def test_calibration_error_weighs_bins_by_their_answers() -> None:
    frames = [outcome(i, confidence=1.0) for i in range(3)]
    frames += [outcome(3, right=False, confidence=0.55)]
    assert reliability(frames) == [(0.55, 0.0, 1), (1.0, 1.0, 3)]
    assert calibration_error(frames) == pytest.approx(0.55 / 4)
    assert calibration_error([]) is None


def test_figures_of_a_replay_are_of_what_only_a_replay_knows() -> None:
    frames = [
        replace(outcome(0), full='stop', macs=10),
        replace(outcome(1, right=False), full='stop', macs=20),
        # Nothing is promised for a fallback.
        replace(outcome(2, Route.FALLBACK, right=False), full='stop', macs=30),
        replace(outcome(3, audit=True), label=None),
    ]
    summary = summarise(frames, Counts(4, 4, 0), DEADLINE_MS)
    assert summary['disagreement'] == 1 / 2
    assert summary['accuracy_full'] == 1.0
    assert summary['robot_macs_mean'] == 20.0
    assert summary['audit_share'] == 1 / 4


def test_the_measured_scene_stands_for_one_that_is_not_known() -> None:
    frames = [outcome(0), replace(outcome(1, right=False, measured_scene='fog'), scene=None)]
    summary = summarise(frames, Counts(2, 2, 0), DEADLINE_MS)
    assert summary['accuracy_by_scene'] == {'day': 1.0, 'fog': 0.0}
