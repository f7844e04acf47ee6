# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Curves, bounds, budgets and watches behind the promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sparse_split_ros.policy.candidates import after_others
from sparse_split_ros.policy.plan import PolicyError
from sparse_split_ros.policy.risk import (
    BINS,
    EDGES,
    Calibration,
    Labelled,
    Sample,
    SceneRisk,
    bin_of,
    bins_of,
    falling,
    threshold_of,
)
from sparse_split_ros.policy.scene_state import Saved, SceneState
from sparse_split_ros.policy.watch import Budget, FeedbackCheck, Objects, PageHinkley


def scene(exits: int = 1, rate: float = 0.1) -> SceneRisk:
    prior = np.tile(np.linspace(2 * rate, 0.01, BINS), (exits, 1))
    return SceneRisk(exits, prior, np.zeros((2, exits, BINS)), 1.0)


def test_a_confidence_reaches_a_threshold_exactly_from_its_bin_on() -> None:
    for confidence in (0.0, 0.19, *EDGES, 0.9999, 1.0):
        bin_ = bin_of(confidence)
        assert confidence >= threshold_of(bin_)
        assert confidence < threshold_of(bin_ + 1)
        assert bins_of(np.array([confidence]))[0] == bin_


def test_pooling_gives_the_nearest_falling_sequence() -> None:
    values = np.array([5.0, 3.0, 4.0, 1.0, 2.0])
    assert falling(values, np.ones(5)).tolist() == [5.0, 3.5, 3.5, 1.5, 1.5]
    assert falling(np.array([1.0, 4.0]), np.array([3.0, 1.0])).tolist() == [1.75, 1.75]


def test_the_curve_follows_what_the_tail_says() -> None:
    risk = scene()
    before = risk.curve[0].copy()
    for i in range(3000):
        risk.learn(Labelled([20], [i % 50 == 0], 1.0))
    risk.fit()
    assert risk.curve[0, 20] == pytest.approx(0.02, abs=0.01)
    assert (np.diff(risk.curve[0]) <= 1e-12).all()
    assert risk.curve[0, 0] == pytest.approx(before[0], abs=0.05)


def test_what_coding_alone_costs_is_subtracted() -> None:
    plain, coded = scene(), scene()
    for i in range(4000):
        plain.learn(Labelled([10], [i % 10 == 0], 1.0))
        coded.learn(Labelled([10], [i % 10 == 0], 1.0, coding=0.04))
    plain.fit()
    coded.fit()
    assert plain.curve[0, 10] - coded.curve[0, 10] == pytest.approx(0.04, abs=0.005)


def test_memory_is_bounded() -> None:
    risk = scene()
    for _ in range(20):
        for _ in range(2000):
            risk.learn(Labelled([5], [False], 1.0))
        risk.fit()
        risk.first[0][5] += 3000.0
    # 400 and 4000 are halved at the next fit; 2000 answers of one object are worth 133.
    assert sum(risk.counts[0]) < 600 and sum(risk.first[0]) < 10_000


def test_what_goes_wrong_more_often_is_feared_where_nothing_is_known() -> None:
    risk = scene()
    before = risk.curve[0, 24]
    for _ in range(300):
        risk.learn(Labelled([20], [True], 1.0))
    risk.fit()
    # The odds are raised five times at most.
    assert 4 * before < risk.curve[0, 24] < 5 * before


def test_the_fewer_errors_are_known_the_more_a_curve_is_doubted() -> None:
    risk = scene()
    # Of the prior, which is worth four frames in each bin.
    assert risk.doubt == pytest.approx(0.04 + 1 / (4 * risk.curve.sum()))
    for _ in range(300):
        risk.learn(Labelled([5], [True], 1.0))
    risk.fit()
    assert risk.doubt < 0.08


@pytest.mark.parametrize(('rate', 'low', 'high'), [(1.0, 0, 12), (8.0, 150, 200)])
def test_the_watch_alarms_on_a_change_and_rarely_without_one(
    rate: float, low: int, high: int
) -> None:
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        risk = scene()
        p = float(risk.curve[0, 12])
        for t in range(300):
            row = Labelled([12], [bool(rng.random() < min(0.95, rate * p))], 1.0)
            # A new object every frame.
            if risk.watch(row, own=t, said=-1 - t, odds=5.0) > math.log(1e3):
                alarms += 1
                break
    assert low <= alarms <= high


def test_one_bad_object_is_no_alarm() -> None:
    risk = scene()
    evidence = [risk.watch(Labelled([24], [True], 1.0), 3, 5, 5.0) for _ in range(100)]
    assert max(evidence) < math.log(1e3)


def test_objects_are_told_apart_by_their_classes() -> None:
    objects = Objects()
    places = [objects.place(*pair) for pair in ((1, 1), (1, 2), (2, 1), (7, 7), (7, 7), (1, 1))]
    assert places == [1, 2, 3, 1, 2, 1]


def test_another_camera_between_makes_no_new_object_of_every_frame() -> None:
    risk, check = scene(), FeedbackCheck()
    for _ in range(100):
        risk.watch(Labelled([24], [True], 1.0), 3, 5, 5.0, source=0)
        risk.watch(Labelled([24], [False], 1.0), 7, 7, 5.0, source=1)
        check.add(5, 3, 0.8, source=0)
        check.add(11, 9, 0.8, source=1)
    assert risk.evidence < math.log(1e3)
    assert not check.poisoned


def test_an_alarm_raises_the_curve_at_once() -> None:
    risk = scene()
    for _ in range(500):
        risk.learn(Labelled([22], [False], 1.0))
    risk.fit()
    before = risk.curve[0].copy()
    risk.alarm()
    assert (risk.curve[0] > before).all()
    assert risk.scale == pytest.approx(0.1), 'of calibration too, the most is forgotten'


def test_audits_keep_to_their_budget_on_average_with_bursts() -> None:
    budget = Budget(0.02, 0.10, 500)
    assert [budget.next() for _ in range(1000)] == [0.005] * 1000
    budget.changed()
    assert [budget.next() for _ in range(500)] == [0.10] * 500
    assert budget.next() == 0.005


def test_what_a_doubted_tail_is_asked_counts_against_the_budget() -> None:
    budget = Budget(0.002, 0.01, 500)
    assert [budget.recheck() for _ in range(2000)] == [0.005] * 2000
    budget.changed()
    assert budget.next() == 0.0005, 'no burst before that is paid back'


def test_changes_without_end_do_not_break_the_budget() -> None:
    budget = Budget(0.02, 0.10, 500)
    total = 0.0
    for frame in range(50_000):
        if frame % 100 == 0:
            budget.changed()
        total += budget.next()
    assert total / 50_000 < 0.0212


def tail_of(kind: str, rng: np.random.Generator, label: int, past: list[int]) -> int:
    if kind == 'random':
        return int(rng.integers(43))
    if kind == 'constant':
        return 11
    if kind == 'replay':
        return past[-60] if len(past) >= 60 else 40
    return label if rng.random() < 0.7 else int(rng.integers(43))


@pytest.mark.parametrize('kind', ['random', 'constant', 'replay', 'honest'])
def test_answers_that_have_nothing_to_do_with_the_frames_are_detected(kind: str) -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        check, past, at = FeedbackCheck(), [], 0
        for frame in range(600):
            if frame % 12 == 0:
                label = int(rng.integers(43))
            past.append(label)
            if check.add(tail_of(kind, rng, label, past), label, 0.8) and not at:
                at = frame
        found.append(at)
    if kind == 'honest':
        assert found.count(0) == 20
    else:
        assert 0 not in found and max(found) < 300


def test_a_tail_that_comes_to_its_senses_is_trusted_again() -> None:
    check = FeedbackCheck()
    for label in range(0, 80, 2):
        check.add(label + 1, label, 0.8)
    assert check.poisoned and 'agrees with the robot on 0 of' in check.reason
    for label in range(4):
        assert check.add(label, label, 0.8)
    # The fourth vote for it, of an object that is over, makes it 8**4 times as likely.
    assert not check.add(4, 4, 0.8)


@pytest.mark.parametrize('expected', [0.0, 0.01, 1.0])
def test_certain_curves_make_no_certain_votes(expected: float) -> None:
    honest, wrong = FeedbackCheck(), FeedbackCheck()
    for label in range(0, 200, 2):
        honest.add(label, label, expected)
        wrong.add(label + 1, label, expected)
    # Where hardly any agreement is expected, disagreement says little, and agreement no ill.
    assert not honest.poisoned
    assert wrong.poisoned == (expected == 1.0)


def test_page_hinkley_waits_for_a_shift() -> None:
    rng = np.random.default_rng(0)
    test = PageHinkley(slack=0.15, limit=25.0)
    assert not any(test.add(x) for x in rng.normal(0, 0.4, 5000))
    assert any(test.add(x) for x in rng.normal(-0.5, 0.4, 120))


def calibration() -> Calibration:
    rng = np.random.default_rng(0)
    confidence = rng.random((40, 3))
    return Calibration(
        {'day': Sample(confidence, rng.random((40, 3)) < 0.2, rng.random((40, 2)) < 0.1)}, (0, 1)
    )


def test_calibration_passes_through_json() -> None:
    first = calibration()
    second = Calibration.from_json(json.loads(json.dumps(first.to_json())))
    a, b = first.scenes['day'], second.scenes['day']
    assert (bins_of(a.confidence) == bins_of(b.confidence)).all()
    assert (a.differs == b.differs).all() and (a.coded == b.coded).all()
    assert second.splits == (0, 1)


@pytest.mark.parametrize(
    'value', [None, 3, {}, {'edges': [0.5], 'splits': [], 'scenes': {}},
              {'edges': list(EDGES), 'splits': [0], 'scenes': {'day': [[1, 2], [3]]}},
              {'edges': list(EDGES), 'splits': [], 'scenes': {'day': [[99]]}},
              {'edges': list(EDGES), 'splits': [], 'scenes': {'day': [[1e300]]}}],
)  # fmt: skip
def test_a_malformed_calibration_is_refused(value: object) -> None:
    with pytest.raises(PolicyError):
        Calibration.from_json(value)


def test_impossible_confidences_are_refused() -> None:
    with pytest.raises(PolicyError, match='outside'):
        Sample(np.array([[np.nan]]), np.array([[False]]), np.zeros((1, 0), bool))


def test_an_exit_that_gets_what_another_declined_is_trusted_less() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(6000) < 0.2
    # Both exits are less sure of hard frames; at the same confidence, hard frames go wrong.
    first = np.where(hard, 0.45, 0.995) + 0.004 * rng.random(6000)
    second = np.where(rng.random(6000) < 0.9, 0.995, 0.45)
    wrong = rng.random((6000, 2)) < np.where(hard, 0.06, 0.002)[:, None]
    alike = rng.random((6000, 2)) < 0.0136
    confidence = np.stack([first, second], 1)
    for differs, low, high in ((wrong, 2.0, 3.0), (alike, 1.0, 1.3)):
        known = Calibration({'day': Sample(confidence, differs, np.zeros((6000, 0), bool))})
        curve = np.tile(np.where(np.arange(BINS) >= bin_of(0.99), 0.0136, 0.3), (2, 1))
        factors = after_others(known, curve)
        assert factors[0] == 1.0
        assert low <= factors[1] <= high
    assert after_others(Calibration({}), scene(2).curve).tolist() == [1.0, 1.0]


@pytest.mark.parametrize('frames', [30, 500, 700])
def test_after_an_alarm_the_newest_frames_are_kept(frames: int) -> None:
    state = SceneState(scene(), np.zeros((0, 1), np.int64), np.zeros(0), {})
    for number in range(1, frames + 1):
        state.add(Labelled([3], [False], float(number)))
    state.forget()
    kept = state.live_weights[: state.filled].tolist()
    assert kept == list(range(max(1, frames - 47), frames + 1))


def test_calibration_counts_half_when_live_frames_stand_for_2000() -> None:
    state = SceneState(scene(), np.array([[24], [24]]), np.ones(2), {})
    state.add(Labelled([3], [False], 2000.0))
    assert dict(zip(*(each.ravel().tolist() for each in state.sample()))) == {24: 1.0, 3: 2000.0}


def test_a_state_from_before_answers_were_counted_knows_what_its_counts_hold() -> None:
    state = SceneState(scene(), np.zeros((0, 1), np.int64), np.zeros(0), {})
    state.risk.counts[0][7], state.risk.scale = 5.0, 0.25
    saved = state.to_json()
    del saved['labelled']
    assert Saved('day', saved, 1).labelled == 5.0


def test_a_sample_is_weighted_until_it_looks_like_the_stream() -> None:
    bins = np.array([[24, 24]] * 90 + [[10, 20]] * 10)
    state = SceneState(scene(2), bins, np.ones(100), {})
    state.risk.first[0][10] = 900.0
    kinds, weights = state.sample()
    share = dict(zip(map(tuple, kinds.tolist()), weights / weights.sum()))
    # 900 frames of the stream, and 100 for what calibration knows.
    assert share[10, 20] == pytest.approx(0.91)
    assert share[24, 24] == pytest.approx(0.09)
    state.risk.shifted()
    assert state.sample()[1].sum() == pytest.approx(145.0), 'what was so before counts little'
