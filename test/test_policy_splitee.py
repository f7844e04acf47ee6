# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The papers' rewards and loops, and that ours learn only from what a robot can know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from policies import DAY, FACTS, decision, reply

from sparse_split_ros.evaluation.table import synthetic
from sparse_split_ros.link.estimate import Link
from sparse_split_ros.policy.bandit import UCB1
from sparse_split_ros.policy.cost import AbstractCosts
from sparse_split_ros.policy.decision import Route
from sparse_split_ros.policy.factory import Settings, make_policy
from sparse_split_ros.policy.facts import NEVER
from sparse_split_ros.policy.plan import PolicyError
from sparse_split_ros.policy.splitee import (
    LEARNERS,
    FinalConfidence,
    PairedElimination,
    SideObservations,
    SplitEEPolicy,
    make_learner,
    play,
    published_i_splitee,
    rewards,
)


def stream(seed: int = 0, arms: int = 7) -> np.ndarray:
    table = synthetic(seed, tracks=60, frames=30, conditions=('day',), stages=tuple(range(arms)))
    return table.shuffled(seed).confidence


def test_splitee_rewards_are_the_published_ones() -> None:
    costs = AbstractCosts.splitee(12, offload=0.3)
    assert costs.local(4, 0.9) == pytest.approx(0.9 - 0.1 * 5)
    assert costs.offloaded(4, 0.95) == pytest.approx(0.95 - 0.3 - 0.1 * 5)


def test_i_splitee_costs_are_those_of_its_code() -> None:
    costs = AbstractCosts.i_splitee(7)
    assert costs.local(0, 0.8) == pytest.approx(0.8 - 0.1 * 3)
    assert costs.local(6, 0.8) == pytest.approx(0.8 - 0.1 * 19)
    assert costs.spent(2, left=True) == pytest.approx(0.1 * 9 + 0.5)


def test_splitee_plays_as_the_published_loop_does() -> None:
    confidence = stream()[:500]
    learner = make_learner('splitee', 7, threshold=0.8)
    table = rewards(learner, confidence)
    counts, sums, expected = [0] * 7, [0.0] * 7, []
    for t in range(len(confidence)):
        log_t = math.log(max(math.e, sum(counts)))
        index = [math.inf if not n else s / n + math.sqrt(log_t / n) for s, n in zip(sums, counts)]
        arm = int(np.argmax(index))
        expected.append(arm)
        counts[arm] += 1
        sums[arm] += table[t, arm]
    assert play(learner, confidence).tolist() == expected


def test_a_frame_that_stays_never_shows_the_final_confidence() -> None:
    confidence = stream()
    learner = make_learner('splitee-s', 7, threshold=0.8)
    # Whatever the last exit would have said of frames that stayed must not matter.
    arms = play(learner, confidence)
    stayed = confidence[np.arange(len(arms)), arms] >= 0.8
    changed = confidence.copy()
    changed[stayed & (arms < 6), 6] = 0.01
    assert play(make_learner('splitee-s', 7, threshold=0.8), changed).tolist() == arms.tolist()


def test_side_observations_are_exact_when_the_answer_came() -> None:
    learner = SideObservations(AbstractCosts.splitee(4), 0.8, UCB1(4))
    learner.learn(2, [0.5, 0.9, 0.6], 0.95)
    costs = learner.costs
    expected = [costs.offloaded(0, 0.95), costs.local(1, 0.9), costs.offloaded(2, 0.95)]
    assert [learner.bandit.mean(arm) for arm in range(3)] == pytest.approx(expected)
    assert learner.bandit.counts[3] == 0


def test_side_observations_of_a_local_frame_use_an_estimate() -> None:
    learner = SideObservations(AbstractCosts.splitee(4), 0.8, UCB1(4))
    learner.learn(1, [0.5, 0.85], None)
    # Nothing was received yet: the estimate is the confidence that answered.
    assert learner.bandit.mean(0) == pytest.approx(learner.costs.offloaded(0, 0.85))
    assert learner.bandit.mean(1) == pytest.approx(learner.costs.local(1, 0.85))


@pytest.mark.parametrize('name', ['splitee-s', 'splitee-paired'])
def test_an_exit_that_was_not_evaluated_teaches_nothing(name: str) -> None:
    """As after a change of policy, while frames of the one before are still on their way."""
    learner = make_learner(name, 4, threshold=0.9)
    learner.learn(2, [math.nan, 0.5, 0.95], None)
    assert learner.bandit.counts == [0, 1, 1, 0]
    pairs = learner.state().get('pairs')
    if pairs is not None:
        assert [(j, i) for j in range(4) for i in range(4) if pairs[j][i][0]] == [(2, 1)]


def test_the_estimate_of_the_final_confidence_is_that_of_like_frames_below() -> None:
    final = FinalConfidence()
    for value in (0.7, 0.9):
        final.learn(0.62, value)
    assert final.estimate(0.64) == pytest.approx(0.8)
    assert final.estimate(0.75) == pytest.approx(0.8)
    assert final.estimate(0.95) == 0.95
    assert final.estimate(0.1) == 0.1


def test_regret_of_the_published_loop_is_several_times_ours() -> None:
    ours, published, paired = 0.0, 0.0, 0.0
    for seed in range(4):
        confidence = stream(seed)
        learner = make_learner('isplitee', 7)
        table = rewards(learner, confidence)
        gaps = table.mean(0).max() - table.mean(0)
        stays = confidence >= learner.threshold
        stays[:, -1] = True
        ours += gaps[play(learner, confidence)].sum()
        published += gaps[published_i_splitee(table, stays, seed=seed)].sum()
        better = make_learner('splitee-paired', 7, threshold=0.5)
        better.costs = learner.costs
        paired += gaps[play(better, confidence)].sum()
    assert published > 3 * ours
    assert paired < 0.5 * ours


def test_a_policy_offloads_learns_and_ignores_fallbacks() -> None:
    policy = SplitEEPolicy(FACTS, make_learner('splitee-s', 4, threshold=0.9))
    counts = policy.learner.bandit.counts
    plan = policy.choose(DAY, Link())
    assert plan.split == 0 and plan.thresholds == (0.9, None, None, None)
    policy.observe(decision(plan, {0: (1, 0.5)}, Route.FALLBACK, sequence=7))
    assert sum(counts) == 0
    policy.observe_reply(7, reply(7, 1), late=True)
    assert counts[0] == 1
    policy.observe_reply(7, reply(7, 1), late=True)
    assert counts[0] == 1


def test_side_exits_are_evaluated_and_never_answer() -> None:
    policy = SplitEEPolicy(FACTS, make_learner('splitee-s', 4, threshold=0.9))
    policy.learner.bandit.update(0, 0.0)
    policy.learner.bandit.update(1, 0.0)
    plan = policy.choose(DAY, Link())
    assert plan.thresholds == (NEVER, NEVER, 0.9, None)


@pytest.mark.parametrize('confidence', [math.nan, 1.5, -0.1])
def test_impossible_confidences_are_counted_and_not_learned(confidence: float) -> None:
    policy = SplitEEPolicy(FACTS, make_learner('splitee', 4, threshold=0.9))
    policy.observe(decision(policy.choose(DAY, Link()), {0: (1, confidence)}))
    assert policy.rejected == 1 and sum(policy.learner.bandit.counts) == 0


def learned(name: str, threshold: float = 0.9) -> SplitEEPolicy:
    policy = SplitEEPolicy(FACTS, make_learner(name, 4, threshold=threshold))
    play(policy.learner, stream(0, 4))
    return policy


@pytest.mark.parametrize('name', LEARNERS)
def test_a_restored_policy_goes_on_as_the_one_that_was_saved(name: str) -> None:
    first = learned(name)
    second = SplitEEPolicy(FACTS, make_learner(name, 4, threshold=0.9))
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    more = stream(1, 4)[:300]
    assert play(first.learner, more).tolist() == play(second.learner, more).tolist()
    assert first.state() == second.state()


@pytest.mark.parametrize(('change', 'reason'), [
    ({'threshold': 0.3}, 'threshold 0.3, this is 0.9'), ({'threshold': None}, 'threshold'),
    ({'costs': None}, 'costs'), ({'plays': -1}, 'pairs'), ({'pairs': [[[1, 2, 3]]]}, 'pairs'),
    ({'pairs': [[[1e300, 0.0, 1e300]] * 4] * 4}, 'impossible pairs'),
    ({'final': {'counts': [1.0] * 20, 'sums': [2.0] * 20}}, 'final'),
    ({'bandit': 3}, 'not of this policy'),
])  # fmt: skip
def test_what_was_learned_on_other_terms_or_makes_no_sense_is_refused(
    change: dict[str, object], reason: str
) -> None:
    second = SplitEEPolicy(FACTS, make_learner('splitee-paired', 4, threshold=0.9))
    blank = second.state()
    with pytest.raises(PolicyError, match=reason):
        second.restore({**learned('splitee-paired').state(), **change})
    assert second.state() == blank


def test_a_codec_that_is_not_calibrated_is_refused() -> None:
    with pytest.raises(PolicyError, match="codec 'int3' is not calibrated"):
        make_policy('splitee', FACTS, Settings(codec='int3'))
    plan = make_policy('splitee', FACTS, Settings(codec='fp16')).choose(DAY, Link())
    assert plan.codec == 'fp16'


def pair(count: float, mean: float, variance: float = 0.0) -> list[float]:
    return [count, count * mean, count * (variance + mean * mean)]


@pytest.mark.parametrize(
    ('seen', 'log_t', 'out'),
    [
        # Bernstein's radius is sqrt(2 V ln t / n) + 1.5 ln t / (3 n).
        (pair(10, -0.1), 1.9, True),
        (pair(10, -0.1), 2.1, False),
        (pair(10, -0.5, 0.05), 2.0, True),
        (pair(10, -0.2, 0.05), 2.0, False),
        (pair(2, -1.0), 0.1, False),
    ],
)
def test_a_deeper_arm_is_ruled_out_when_its_paired_loss_is_beyond_doubt(
    seen: list[float], log_t: float, out: bool
) -> None:
    learner = PairedElimination(AbstractCosts.splitee(2), 0.9, UCB1(2))
    learner._pairs[1][0] = seen
    assert learner._ruled_out(1, 0, log_t) == out


@pytest.mark.parametrize(('log_t', 'out'), [(0.9, True), (1.1, False)])
def test_an_arm_is_ruled_out_by_its_cost_alone(log_t: float, out: bool) -> None:
    learner = PairedElimination(AbstractCosts.splitee(2), 0.9, UCB1(2))
    # The second arm earns 1 - 0.2 at most; 0.95 less Hoeffding's 1.5 sqrt(ln t / 100) is more.
    learner.bandit.counts, learner.bandit._sums = [50.0, 0.0], [47.5, 0.0]
    assert learner._ruled_out(1, 0, log_t) == out
