# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Indices: exact values, optimism, forgetting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparse_split_ros.policy.bandit import (
    INDICES,
    UCB1,
    UCBV,
    Bandit,
    BayesUCB,
    DiscountedUCB,
    SlidingWindowUCB,
    UCBTuned,
    make_bandit,
)
from sparse_split_ros.policy.plan import PolicyError


def play(index: str, means: list[float], steps: int, seed: int = 0, **settings: float) -> list[int]:
    rng = np.random.default_rng(seed)
    bandit = make_bandit(index, len(means), **settings)
    arms = []
    for _ in range(steps):
        arm = bandit.choose()
        bandit.update(arm, means[arm] + rng.normal(0, 0.1))
        arms.append(arm)
    return arms


@pytest.mark.parametrize('index', INDICES)
def test_every_index_tries_all_arms_and_settles_on_the_best(index: str) -> None:
    arms = play(index, [0.2, 0.9, 0.4], 2000)
    assert set(arms[:3]) == {0, 1, 2}
    assert arms[-500:].count(1) > 350


@pytest.mark.parametrize(
    ('bandit', 'index'),
    [
        (UCB1(1, scale=2, beta=3), 0.5 + 3 * 2 * math.sqrt(3 / 4)),
        (UCBV(1, scale=2, zeta=1.2), 0.5 + math.sqrt(2 * 0.25 * 3.6 / 4) + 3 * 2 * 3.6 / 4),
        # The bound on the variance is above a quarter here.
        (UCBTuned(1, scale=2), 0.5 + 2 * math.sqrt(3 / 4 * 0.25)),
        (DiscountedUCB(1, scale=2, beta=3), 0.5 + 3 * 2 * math.sqrt(3 / 4)),
        (SlidingWindowUCB(1, scale=2, beta=3), 0.5 + 3 * 2 * math.sqrt(3 / 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_index_is_the_published_one(bandit: Bandit, index: float) -> None:
    """Of four rewards of mean 1/2 and variance 1/4, at ln t = 3."""
    bandit.counts, bandit._sums, bandit._squares = [4.0], [2.0], [2.0]
    assert bandit.index(0, 3.0) == pytest.approx(index)


def test_ucb_v_and_tuned_count_on_a_small_variance() -> None:
    steady, wild = [0.5] * 2000, [0.0, 1.0] * 1000
    for bandit in (UCBV(2), UCBTuned(2)):
        for a, b in zip(steady, wild):
            bandit.update(0, a)
            bandit.update(1, b)
        log_t = math.log(100)
        assert bandit.index(0, log_t) < bandit.index(1, log_t)


def test_bayes_ucb_is_students_quantile() -> None:
    bandit = BayesUCB(1, prior=0.0)
    values = [0.1, 0.4, 0.5, 0.6, 0.9] * 4
    for value in values:
        bandit.update(0, value)
    # t(0.99) with 20 degrees of freedom is 2.528 in the tables.
    spread = math.sqrt(np.var(values) / 20)
    assert bandit.index(0, math.log(100)) == pytest.approx(0.5 + 2.528 * spread, rel=2e-3)


def test_bayes_ucb_starts_from_two_rewards_of_a_sixteenth_of_the_squared_range() -> None:
    bandit = BayesUCB(1, scale=2)
    bandit.counts, bandit._sums, bandit._squares = [4.0], [2.0], [2.0]
    # t(0.95) with 4 + 2 degrees of freedom is 1.943 in the tables; all variances are 1/4.
    assert bandit.index(0, math.log(20)) == pytest.approx(
        0.5 + 1.943 * math.sqrt(0.25 / 4), rel=2e-3
    )


def test_weights_count_in_what_is_forgotten() -> None:
    fading = DiscountedUCB(1, discount=0.5)
    fading.update(0, 1.0)
    fading.update(0, 0.0, weight=2.0)
    assert (fading.counts, fading.mean(0)) == ([0.25 + 2.0], pytest.approx(0.25 / 2.25))
    window = SlidingWindowUCB(2, window=2)
    for arm, weight in ((0, 0.25), (1, 1.0), (1, 1.0)):
        window.update(arm, 1.0, weight)
    assert window.counts == [0.0, 2.0]


@pytest.mark.parametrize('index', ['discounted-ucb', 'sliding-window-ucb'])
def test_forgetting_indices_follow_a_change_that_ucb1_sleeps_through(index: str) -> None:
    def after(name: str, **settings: float) -> int:
        bandit = make_bandit(name, 2, **settings)
        arms = []
        for t in range(3000):
            arm = bandit.choose()
            best = 0 if t < 2000 else 1
            bandit.update(arm, 1.0 if arm == best else 0.0)
            arms.append(arm)
        return arms[2000:].count(1)

    # The same small radius for all: the rest is memory.
    assert after(index, beta=0.1) > 600 > after('ucb1', beta=0.1)


def test_a_window_forgets_exactly() -> None:
    bandit = SlidingWindowUCB(2, window=3)
    for reward in (9.0, 1.0, 2.0, 3.0):
        bandit.update(0, reward)
    assert bandit.mean(0) == pytest.approx(2.0)
    assert bandit.counts[0] == pytest.approx(3.0)


@pytest.mark.parametrize('index', INDICES)
def test_state_goes_on_where_it_stopped(index: str) -> None:
    first, second = make_bandit(index, 3), make_bandit(index, 3)
    for t in range(50):
        first.update(t % 3, 0.1 * (t % 3))
    second.restore(first.state())
    assert second.choose() == first.choose()
    assert second.counts == first.counts


@pytest.mark.parametrize('change', [
    {'counts': [-1e6, 1.0, 1.0]}, {'past': [(9, 0.5, 1.0)]}, {'past': [(0, math.nan, 1.0)]},
    {'past': [(0, 0.5, 1.0)] * 9}, {'past': [(0, 0.5, -1.0)]},
])  # fmt: skip
def test_an_impossible_state_changes_nothing(change: dict[str, object]) -> None:
    first, second = SlidingWindowUCB(3, window=8), SlidingWindowUCB(3, window=8)
    for t in range(20):
        first.update(t % 3, 0.1 * t)
    blank = second.state()
    with pytest.raises(PolicyError, match='the state of a bandit'):
        second.restore({**first.state(), **change})
    assert second.state() == blank


def test_a_restored_window_counts_what_it_holds() -> None:
    first, second = SlidingWindowUCB(2, window=8), SlidingWindowUCB(2, window=8)
    for t in range(20):
        first.update(t % 2, 0.1 * t)
    second.restore({**first.state(), 'counts': [0.0, 0.0]})
    for _ in range(8):
        second.update(1, 0.5)
    assert second.counts == [0.0, 8.0] and second.mean(1) == pytest.approx(0.5)


@pytest.mark.parametrize('index', INDICES)
@pytest.mark.parametrize('column', ['counts', 'sums', 'squares'])
def test_a_state_of_more_than_can_be_counted_is_refused(index: str, column: str) -> None:
    bandit = make_bandit(index, 3)
    for t in range(30):
        bandit.update(t % 3, 0.5)
    for value in (1e300, -1e300, math.nan):
        with pytest.raises(PolicyError, match='the state of a bandit'):
            bandit.restore({**bandit.state(), column: [value, 1.0, 1.0]})


@pytest.mark.parametrize('reward', [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused(reward: float) -> None:
    with pytest.raises(PolicyError, match='reward'):
        UCB1(2).update(0, reward)


def test_unknown_index_names_the_choices() -> None:
    with pytest.raises(PolicyError, match='ucb-tuned'):
        make_bandit('ucb2', 3)


def test_only_allowed_arms_are_played() -> None:
    bandit = UCB1(3)
    for arm, reward in enumerate((1.0, 0.5, 0.1)):
        bandit.update(arm, reward)
    assert bandit.choose(allowed=[1, 2]) in (1, 2)
