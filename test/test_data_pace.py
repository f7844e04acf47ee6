# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames keep their recorded distances where stamps are times, and a usual one where not."""

from __future__ import annotations

import pytest

from sparse_split_ros.data.pace import LONGEST_PAUSE_S, USUAL_RATE, Pace

EPOCH = 1_760_000_000.0
USUAL = 1 / USUAL_RATE


@pytest.mark.parametrize(
    ('stamps', 'times', 'guessed'),
    [
        ([5.0, 5.1, 7.0], [0.0, 0.1, 2.0], 0),
        ([5.0, 5.0 + LONGEST_PAUSE_S], [0.0, LONGEST_PAUSE_S], 0),
        ([-5.0, -4.5, -4.0], [0.0, 0.5, 1.0], 0),
        ([0.0] * 4, [0.0, USUAL, 2 * USUAL, 3 * USUAL], 3),
        # A clock that is set, forward and back: what follows keeps its distance.
        ([0.0, EPOCH, EPOCH + 1, EPOCH + 2], [0.0, USUAL, USUAL + 1, USUAL + 2], 1),
        ([EPOCH, EPOCH + 1, 0.0, 1.0, 2.0], [0.0, 1.0, 1 + USUAL, 2 + USUAL, 3 + USUAL], 1),
        # One late stamp moves nothing.
        ([5.0, 6.0, 5.5, 8.0], [0.0, 1.0, 1 + USUAL, 3.0], 1),
        # Two in order are of a clock that was set, be it by less than a usual pause.
        ([5.0, 6.0, 2.0, 3.0, 4.5], [0.0, 1.0, 1 + USUAL, 2 + USUAL, 3.5 + USUAL], 1),
        # Two in no order are late, each.
        ([5.0, 9.0, 6.0, 5.5, 12.0], [0.0, 4.0, 4 + USUAL, 4 + 2 * USUAL, 7.0], 2),
    ],
)
def test_stamps_are_believed_where_they_are_times(
    stamps: list[float], times: list[float], guessed: int
) -> None:
    pace = Pace()
    assert [pace.time(round(s * 1e9)) for s in stamps] == pytest.approx(times, abs=1e-6)
    assert pace.guessed == guessed


@pytest.mark.parametrize('odd', [0.5, 1.0])
def test_a_fast_camera_keeps_its_rate_after_one_late_stamp(odd: float) -> None:
    pace, period = Pace(), USUAL / 4
    stamps = [EPOCH + i * period for i in range(100)]
    stamps[50] = stamps[49] - (1 - odd) * period
    times = [pace.time(round(s * 1e9)) for s in stamps]
    assert times[-1] - times[51] == pytest.approx(48 * period, abs=1e-6)
    assert pace.guessed == 1


def test_the_step_is_the_last_one_and_a_usual_one_before_there_is_any() -> None:
    pace = Pace(rate=10.0)
    steps = []
    for second in (5, 7, 8, 8):
        pace.time(second * 10**9)
        steps.append(pace.step)
    assert steps == pytest.approx([0.1, 2.0, 1.0, 0.1])
