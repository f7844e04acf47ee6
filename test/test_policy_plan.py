# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The fixed policy follows its settings or refuses them by name."""

from __future__ import annotations

import pytest

from sparse_split_ros.link.estimate import Link
from sparse_split_ros.policy.factory import Settings
from sparse_split_ros.policy.plan import FixedPolicy, PolicyError
from sparse_split_ros.policy.scene import Scene


def fixed(split: int, exits: tuple[int, ...] = (0, 2, 3)) -> FixedPolicy:
    return FixedPolicy.of(stages=4, exits=exits, split=split, threshold=0.8, codec='int8')


def test_exits_up_to_the_split_are_evaluated_and_no_other() -> None:
    plan = fixed(2).choose(Scene(), Link())
    assert plan.thresholds == (0.8, None, 0.8, None)
    assert (plan.split, plan.codec, plan.audit_probability) == (2, 'int8', 0.0)


def test_the_last_stage_as_split_answers_everything_on_the_robot() -> None:
    assert fixed(3).choose(Scene(), Link()).thresholds == (0.8, None, 0.8, 0.0)


@pytest.mark.parametrize('split', [-1, 4, 99])
def test_a_split_that_is_no_stage_is_refused(split: int) -> None:
    with pytest.raises(PolicyError, match=f'split {split} is no stage .* 0 to 3'):
        fixed(split)


def test_a_split_before_the_first_exit_is_refused() -> None:
    with pytest.raises(PolicyError, match='split 1 lies before the first exit, at stage 2'):
        fixed(1, exits=(2, 3))


@pytest.mark.parametrize('threshold', [1.01, float('nan'), float('inf')])
def test_a_threshold_that_no_confidence_can_reach_is_refused(threshold: float) -> None:
    with pytest.raises(PolicyError, match=f'threshold .*{threshold}'):
        Settings(threshold=threshold)
