# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The link's estimates: right on a known link, finite on any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.link.estimate import LinkEstimator, TailState


def test_nothing_measured_is_nan() -> None:
    link = LinkEstimator().view(TailState.UNKNOWN)
    assert all(math.isnan(v) for v in (link.rtt_ms, link.jitter_ms, link.goodput, link.loss))


def test_round_trip_time_and_jitter_follow_rfc_6298() -> None:
    estimator = LinkEstimator()
    estimator.answered(100, 8.0)
    assert (estimator.view(TailState.UP).rtt_ms, estimator.view(TailState.UP).jitter_ms) == (8, 4)
    estimator.answered(100, 16.0)
    link = estimator.view(TailState.UP)
    # RTTVAR = 3/4 * 4 + 1/4 * |8 - 16|, then SRTT = 7/8 * 8 + 1/8 * 16.
    assert (link.rtt_ms, link.jitter_ms) == (9.0, 5.0)


def test_goodput_is_the_slope_of_time_over_bytes() -> None:
    rng = np.random.default_rng(0)
    estimator = LinkEstimator()
    for size in rng.integers(200, 4000, 200):
        estimator.answered(int(size), 5.0 + 1e3 * size / 1e6 + rng.normal(0, 0.05))
    # 200 frames of 2 KB mean with 50 us of noise know 1 MB/s to a few per cent.
    assert estimator.view(TailState.UP).goodput == pytest.approx(1e6, rel=0.05)


def test_frames_of_one_size_say_nothing_of_goodput() -> None:
    estimator = LinkEstimator()
    for _ in range(50):
        estimator.answered(500, 5.0)
    assert math.isnan(estimator.view(TailState.UP).goodput)


def test_loss_follows_the_share_of_missed_frames() -> None:
    rng = np.random.default_rng(0)
    estimator = LinkEstimator()
    seen = []
    for lost in rng.random(2000) < 0.2:
        if lost:
            estimator.missed()
        else:
            estimator.answered(100, 5.0)
        seen.append(estimator.view(TailState.UP).loss)
    # One estimate spreads by sqrt(0.2 * 0.8 / 63); their mean over 1,900 frames by a tenth of that.
    assert np.mean(seen[100:]) == pytest.approx(0.2, abs=0.03)


def test_a_miss_before_any_answer_does_not_make_the_link_look_dead() -> None:
    estimator = LinkEstimator()
    estimator.missed()
    assert 0 < estimator.view(TailState.UP).loss < 0.1


events = st.lists(
    st.tuples(st.integers(0, 1 << 22), st.floats(0, 6e4, allow_subnormal=False)) | st.none(),
    min_size=1,
    max_size=60,
)


@given(events)
def test_any_history_gives_estimates_in_their_range(
    history: list[tuple[int, float] | None],
) -> None:
    estimator = LinkEstimator()
    for event in history:
        if event is None:
            estimator.missed()
        else:
            estimator.answered(*event)
    link = estimator.view(TailState.UP)
    assert math.isnan(link.rtt_ms) or 0 <= link.rtt_ms <= 6e4
    assert math.isnan(link.jitter_ms) or 0 <= link.jitter_ms <= 6e4
    assert math.isnan(link.goodput) or 0 < link.goodput < math.inf
    assert 0 <= link.loss <= 1
