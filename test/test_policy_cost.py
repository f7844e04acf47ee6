# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Costs follow what is measured, and charge what nothing is promised for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from bundles import make_bundle
from policies import DAY, FACTS

from sparse_split_ros.evaluation.link_model import PRESETS
from sparse_split_ros.evaluation.simulate import (
    Segment,
    Simulation,
    calibration_of,
    hindsight,
    steady,
)
from sparse_split_ros.evaluation.table import synthetic
from sparse_split_ros.link.estimate import Link, TailState
from sparse_split_ros.policy.cost import WEIGHTS, CostModel, PowerReading, Weights
from sparse_split_ros.policy.factory import Settings, apply_power, make_policy
from sparse_split_ros.policy.facts import NEVER, Energy, Facts
from sparse_split_ros.policy.joint import JointPolicy
from sparse_split_ros.policy.plan import FixedPolicy, Plan, PolicyError
from sparse_split_ros.runtime.bundle import Bundle, bundle_path

UP = Link(TailState.UP, rtt_ms=8.0, jitter_ms=1.0, goodput=100_000.0, loss=0.0)


def test_measured_times_replace_the_guess_from_macs() -> None:
    costs = CostModel(FACTS)
    costs.measured({0: 2.0, 1: 1.0}, {0: 0.5})
    assert costs.compute_ms(1, (0,)) == pytest.approx(3.5)


def test_one_preempted_frame_hardly_moves_the_mean() -> None:
    costs = CostModel(FACTS)
    for _ in range(50):
        costs.measured({0: 2.0}, {})
    costs.measured({0: 500.0}, {})
    assert costs.stage_ms[0] < 2.5


def test_one_slow_first_answer_is_outlived_by_the_next() -> None:
    costs = CostModel(FACTS)
    costs.answered(1, 140, 90.0)
    for _ in range(9):
        costs.answered(1, 140, 2.0)
    assert costs.tail_ms[1] == pytest.approx((90 + 9 * 2) / 10)


def test_what_comes_before_and_after_the_stages_is_charged() -> None:
    costs = CostModel(FACTS)
    local, asked = costs.local(3, (3,)), costs.offload(1, 'int4', 5.0, UP)
    costs.around(2.0, 1, 0.5)
    assert costs.local(3, (3,)) == pytest.approx(local + 2.0)
    assert costs.offload(1, 'int4', 5.0, UP) == pytest.approx(asked + 0.5)


def test_a_frame_of_a_plan_from_before_a_change_of_parameters_is_no_trouble() -> None:
    costs = CostModel(replace(FACTS, codings={0: FACTS.codings[0]}))
    costs.around(2.0, 1, 0.5)
    costs.answered(1, 140, 1.0)
    assert costs.overhead_ms == 2.0 and costs.encode_ms.keys() == costs.tail_ms.keys() == {0}


def test_a_profile_multiplies_the_robot_and_not_the_tail() -> None:
    one, ten = CostModel(FACTS), CostModel(FACTS, profile=10)
    assert ten.compute_ms(2, (0,)) == pytest.approx(10 * one.compute_ms(2, (0,)))
    assert ten.tail_ms == one.tail_ms
    measured = CostModel(FACTS, profile=3, stage_ms={0: 2.0}, exit_ms={0: 1.0})
    assert measured.compute_ms(0, (0,)) == pytest.approx(9.0)


def test_bytes_cost_time_by_the_goodput() -> None:
    costs = CostModel(FACTS)
    costs.answered(1, 140, 1.0)
    small = costs.offload(1, 'int4', 5.0, UP)
    large = costs.offload(1, 'fp16', 5.0, UP)
    # 300 bytes more at 100 kB/s.
    assert large - small == pytest.approx(3.0, rel=0.01)


def test_no_answer_is_quicker_than_half_a_millisecond() -> None:
    costs = CostModel(FACTS)
    costs.answered(1, 10_000, 1.0)
    link = replace(UP, rtt_ms=1.0, goodput=1000.0)
    assert costs.offload(1, 'int4', 5.0, link) == pytest.approx(5.0 + 1.0 + 0.5)


@pytest.mark.parametrize(
    ('slack', 'link', 'missed'),
    [
        (60, Link(TailState.UP, 20.0, 4.0, loss=0.2), 0.2),
        # A logistic with a mean deviation of 4 exceeds its mean by 4 with a chance of 1 in 5.
        (4, Link(TailState.UP, 20.0, 4.0, loss=0.0), 0.2),
        (4, Link(TailState.UP, 20.0, 4.0, loss=0.2), 0.2 + 0.8 * 0.2),
        (0, Link(TailState.UP, 20.0, 4.0, loss=0.0), 0.5),
        # Half the round trip stands for a jitter that was not measured.
        (10, Link(TailState.UP, 20.0), 0.2),
    ],
)
def test_an_answer_may_be_lost_or_late(slack: float, link: Link, missed: float) -> None:
    costs = CostModel(FACTS, deadline_ms=100)
    compute_ms = 100 - slack - link.rtt_ms - costs.tail_ms[1]
    expected = (1 - missed) * (100 - slack) + missed * (100 + 100)
    assert costs.offload(1, 'int4', compute_ms, link) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('state', [TailState.DOWN, TailState.UNKNOWN, TailState.FOREIGN])
def test_without_a_tail_asking_costs_a_miss(state: TailState) -> None:
    costs = CostModel(FACTS, deadline_ms=100)
    assert costs.offload(1, 'int4', 5.0, Link(state)) == pytest.approx(105.0)


def test_a_link_slower_than_the_deadline_is_worse_than_none() -> None:
    costs = CostModel(FACTS, deadline_ms=50)
    slow = Link(TailState.UP, rtt_ms=200.0, jitter_ms=5.0, loss=0.3)
    assert costs.offload(1, 'int4', 5.0, slow) > costs.offload(1, 'int4', 5.0, UP) + 50


def test_an_unmeasured_link_has_a_finite_cost() -> None:
    assert math.isfinite(CostModel(FACTS).offload(0, 'int4', 1.0, Link(TailState.UP)))


def test_weights_change_what_counts() -> None:
    frugal = CostModel(FACTS, WEIGHTS['frugal'])
    joules = frugal.joules(5, (0,), ())
    assert frugal.charge(10, 1000, joules, missed=False) == pytest.approx(2 + 20 + 400 * 0.026)
    assert frugal.charge(10, 0, 0, missed=True) == pytest.approx(0.2 * (10 + 100))


ENERGY = Energy({0: 1.0, 1: 2.0, 2: 4.0, 3: 8.0}, {0: 0.1, 1: 0.2, 2: 0.4, 3: 0.8}, {1: 0.05})


def energetic() -> CostModel:
    """Costs that are joules on the robot and nothing else."""
    weights = Weights(ms=0.0, joule=1.0)
    return CostModel(replace(FACTS, energy=ENERGY), weights, joules_per_byte=0.0)


def test_energy_is_the_bundles_estimate_of_what_was_computed() -> None:
    costs = energetic()
    assert costs.local(1, (0, 1, 3)) == pytest.approx(3.3)
    assert costs.offload(1, 'int4', 5.0, UP, (0, 1)) == pytest.approx(3.35)
    assert costs.offload(2, 'int4', 5.0, UP, (2,)) == pytest.approx(7.4), 'no encoder there'


def test_a_power_reading_goes_before_the_estimate() -> None:
    costs = energetic()
    costs.watts = 10.0
    assert costs.local(1, (1,)) == pytest.approx(10.0 * costs.compute_ms(1, (1,)) / 1e3)


def test_a_run_is_charged_the_energy_of_what_it_computed() -> None:
    table = synthetic(0, tracks=5)
    policy = FixedPolicy(Plan(1, (None, NEVER, None, None), 'int4'))
    costs = energetic()
    run = Simulation(policy, replace(FACTS, energy=ENERGY), costs).run([Segment(table)])
    sent = run.sent > 0
    assert sent.any() and run.cost[sent] == pytest.approx(3.25)
    assert run.cost[~sent] == pytest.approx(3.2)
    found = hindsight(table, FACTS, costs, steady(PRESETS['ideal']))
    asking = [item.cost for item in found if (item.split, item.threshold) == (1, NEVER)]
    assert asking and asking == pytest.approx([3.25] * len(asking))


def test_asking_is_charged_the_exits_that_are_evaluated_before(monkeypatch) -> None:
    policy = make_policy('joint', FACTS, Settings(profile=8.0), calibration_of(synthetic(2)))
    assert isinstance(policy, JointPolicy)
    costs, asked = policy.costs, []

    def noted(split: int, codec: str, ms: float, link: Link, evaluated: tuple[int, ...]) -> float:
        asked.append(ms == costs.compute_ms(split, evaluated))
        return 0.0

    monkeypatch.setattr(costs, 'offload', noted)
    policy.choose(DAY, UP)
    assert asked and all(asked)


def test_a_bundle_says_the_energy_of_its_parts_or_of_none(tmp_path) -> None:
    shipped = Bundle.load(bundle_path('gtsrb32'))
    energy = Facts.of(shipped).energy
    assert energy is not None and set(energy.encoders) == {0, 1, 2}
    assert energy.stages[3] == pytest.approx(shipped.stages[3].account['energy_uj'] / 1e6)
    assert Facts.of(make_bundle(tmp_path)).energy is None


@pytest.mark.parametrize('weights', [(-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (math.nan, 1.0, 0.0)])
def test_impossible_weights_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(PolicyError, match='cost weights'):
        Weights(*weights)


def test_a_power_sensor_is_read_where_there_is_one(tmp_path) -> None:
    assert PowerReading(tmp_path).watts() is None
    for number, chip, milliamperes in ((1, 'nct6775', 100), (3, 'ina3221', 900)):
        device = tmp_path / f'hwmon{number}'
        device.mkdir()
        for name, value in (('name', chip), ('in1_input', 5000), ('curr1_input', milliamperes)):
            (device / name).write_text(f'{value}\n')
    assert PowerReading(tmp_path).watts() == pytest.approx(4.5), 'of the other it is no input power'


def test_a_power_reading_moves_what_energy_costs() -> None:
    policy = make_policy('joint', FACTS, Settings(weights='frugal'))
    assert isinstance(policy, JointPolicy)
    apply_power(policy, 15.0)
    assert policy.costs.watts == pytest.approx(5.0 + 0.1 * 10.0), 'one second is one of many loads'
    for _ in range(100):
        apply_power(policy, 15.0)
    apply_power(policy, math.nan)
    assert policy.costs.watts == pytest.approx(15.0, rel=0.01)
