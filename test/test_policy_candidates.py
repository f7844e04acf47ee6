# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the promise leaves to a scene, and what a sample's frames do at its exits, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from policies import FACTS

from sparse_split_ros.policy.candidates import Search, _Promise
from sparse_split_ros.policy.facts import NEVER, Coding
from sparse_split_ros.policy.risk import BINS, LEVELS, SceneRisk

EARLY = (0, 1, 2)
NOTHING = (0.0, 0.0)
# Coding changes nothing.
CODING = {split: np.zeros((2, BINS)) for split in FACTS.splits}


def scene(answers: float = 0.0, spent: float = 0.0, seen: float = 1000.0) -> SceneRisk:
    """A scene of so many answers, of which so many were wrong, and frames whose bins were seen."""
    risk = SceneRisk(3, np.full((3, BINS), 0.3), np.zeros((2, 3, BINS)), 1.0)
    risk.answers, risk.coding, risk.first[0][5] = answers, spent, seen
    # The last five bins of each exit are wrong in one of a hundred, for sure.
    risk.curve[:, 20:], risk.variance, risk.doubt = 0.01, np.zeros((3, BINS)), 0.0
    return risk


def search(late: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Search:
    return Search(FACTS, EARLY, np.array(late), all_local=True, z=1.75)


def allows(promise: _Promise, *totals: float) -> list[bool]:
    """Whether levels that lead to these shares of wrong answers are allowed, their curves known."""
    found = [promise.allows(np.full(len(LEVELS), total), np.zeros(len(LEVELS))) for total in totals]
    return [bool(each[0]) for each in found]


def test_a_scene_may_lose_what_the_target_allows_with_a_margin_for_chance() -> None:
    promise = _Promise.of(scene(), NOTHING, target=0.01, z=1.75)
    # x + 1.75 sqrt(6 x / 2000) is 0.01 at 0.00397.
    assert allows(promise, 0.0039, 0.0040) == [True, False]


def test_what_was_overdrawn_is_paid_back_within_300_frames() -> None:
    promise = _Promise.of(scene(answers=100, spent=4), NOTHING, target=0.01, z=1.75)
    # 400 frames may lose 4, which are lost; alone by the time of 2000 more could be.
    assert allows(promise, 0.0, 0.002) == [True, False]


def test_what_other_scenes_have_overdrawn_leaves_a_tenth_of_the_target() -> None:
    promise = _Promise.of(scene(), (5000.0, 500.0), target=0.01, z=1.75)
    assert allows(promise, 0.001, 0.002) == [True, False]


def test_no_answer_is_much_worse_than_the_target_before_the_stream_is_known() -> None:
    new = _Promise.of(scene(seen=19), NOTHING, target=0.01, z=1.75)
    assert new.bearable.tolist() == [level <= 0.02 for level in LEVELS]
    assert _Promise.of(scene(seen=20), NOTHING, target=0.01, z=1.75).bearable.all()


def test_what_another_exit_declined_is_as_much_likelier_to_be_wrong() -> None:
    risk = scene()
    risk.doubt = 0.5
    bins = np.array([[24, -1, -1], [10, 24, -1], [10, 10, -1], [10, 10, -1]])
    passed = search((1.0, 3.0, 1.0))._passed(
        (0, 1), risk, np.full((1, 3), 20), bins, np.array([2.0, 1.0, 0.5, 0.5])
    )
    assert passed.stops.tolist() == [[0.5, 0.25]] and passed.rest.tolist() == [0.25]
    assert passed.expected[0] == pytest.approx(0.5 * 0.01 + 3 * 0.25 * 0.01)
    assert passed.variance[0] == pytest.approx(0.5 * passed.expected[0] ** 2)
    assert passed.left[0, 10] == pytest.approx(0.25) and passed.left.sum() == pytest.approx(0.25)


def test_some_frames_are_left_to_the_tail_even_if_the_sample_has_none() -> None:
    bins, weights = np.full((10, 3), 24), np.ones(10)
    found = search()(scene(), CODING, bins, weights, 0.2, NOTHING)
    assert min(item.rest for item in found) == pytest.approx(1 / 300)


def test_exits_that_were_never_seen_do_not_answer() -> None:
    found = search()(scene(), CODING, np.zeros((0, 3), np.int64), np.zeros(0), 0.2, NOTHING)
    early = [value for item in found for value in item.thresholds[:-1] if value is not None]
    assert early and set(early) == {NEVER}


def test_a_codec_of_more_bytes_and_more_harm_is_left_out() -> None:
    codings = {
        1: {'fp16': Coding(400, 0.004), 'int8': Coding(200, 0.02), 'int4': Coding(100, 0.005)}
    }
    facts = replace(FACTS, codings=codings)
    harm = Search(facts, EARLY, np.ones(3), all_local=True, z=1.75).harm
    assert harm == {1: pytest.approx({'int4': 1.25, 'fp16': 1.0})}
