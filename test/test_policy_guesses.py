# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The joint policy and a tail that guesses, and what a changed promise forgets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from policies import DAY, FACTS, decision

from sparse_split_ros.link.estimate import Link, TailState
from sparse_split_ros.policy.cost import WEIGHTS, CostModel
from sparse_split_ros.policy.decision import Route, Times
from sparse_split_ros.policy.joint import JointPolicy

UP = Link(TailState.UP, 5.0, 1.0, math.nan, 0.0)


def asked_of_a_guesser(
    classes: int, stage_ms: tuple[float, ...], frames: int, all_local: bool = False
) -> tuple[JointPolicy, list[bool]]:
    """The policy after so many frames, and which of them the tail answered, at random.

    Objects last 12 frames; the robot is always right, and sure of itself in a third of them.
    """
    facts = replace(FACTS, classes=classes, sizes=(classes,))
    costs = CostModel(facts, deadline_ms=100.0, stage_ms=dict(enumerate(stage_ms)))
    policy = JointPolicy(facts, costs, seed=1, all_local=all_local)
    rng = np.random.default_rng(0)
    label, asked = 0, []
    for number in range(frames):
        if number % 12 == 0:
            label = int(rng.integers(classes))
        plan = policy.choose(DAY, UP)
        confidence = float(rng.choice([0.7, 0.97, 0.9999]))
        exits, stopped = {}, False
        for stage in range(plan.split + 1):
            threshold = plan.thresholds[stage]
            if threshold is not None and not stopped:
                exits[stage] = (label, confidence)
                stopped = confidence >= threshold
        said = (int(rng.integers(classes)), 0.9)
        asked.append(not stopped)
        policy.observe(
            replace(decision(plan, exits, Route.LOCAL, sequence=number), payload_bytes=0)
            if stopped
            else decision(plan, exits, Route.OFFBOARD, answer=said, sequence=number)
        )
    return policy, asked


@pytest.mark.parametrize('classes', [4, 8, 43])
def test_a_tail_that_guesses_is_found_out_however_few_the_classes(classes: int) -> None:
    policy, asked = asked_of_a_guesser(classes, (1, 1, 30, 20), 2000)
    assert policy.feedback.poisoned, policy.diagnostics()
    assert not any(asked[1000:])


def test_a_tail_that_is_not_believed_is_not_used_while_nothing_is_known() -> None:
    # Its last stage is too slow for the deadline, and no exit of the scene was calibrated.
    policy, asked = asked_of_a_guesser(43, (5, 5, 5, 150), 3000, all_local=True)
    assert policy.feedback.poisoned, policy.diagnostics()
    assert np.mean(asked[1500:]) < 0.02


def test_what_a_tail_claims_is_no_more_than_was_waited_for() -> None:
    policy = JointPolicy(FACTS, CostModel(FACTS, deadline_ms=100.0), seed=1)
    plan = replace(policy.choose(DAY, UP), split=1, codec='int4')
    said = decision(plan, {0: (1, 0.5)}, Route.OFFBOARD, answer=(1, 0.9))
    policy.observe(replace(said, times=Times(offboard=7.0, tail=4_294_967.0)))
    assert policy.costs.tail_ms[plan.split] <= 7.0


@pytest.mark.parametrize('restart', [False, True])
@pytest.mark.parametrize('target', [0.02, 0.005])
def test_another_promise_begins_another_account(restart: bool, target: float) -> None:
    def made(target: float) -> JointPolicy:
        return JointPolicy(FACTS, CostModel(FACTS, deadline_ms=100.0), target=target, seed=1)

    policy = made(0.02)
    plan = policy.choose(DAY, UP)
    for number in range(50):
        policy.observe(decision(plan, {0: (1, 0.99)}, Route.LOCAL, sequence=number))
    (risk,) = (scene.risk for scene in policy._scenes.values())
    answers = risk.answers
    assert answers > 0
    if restart:
        policy, state = made(target), policy.state()
        policy.restore(state)
        (risk,) = (scene.risk for scene in policy._scenes.values())
    else:
        policy.change(
            target=target, weights=WEIGHTS['latency'], deadline_ms=100.0, audit_share=0.02
        )
    assert risk.answers == (answers if target == 0.02 else 0)
