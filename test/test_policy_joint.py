# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The joint policy: plans that keep the promise, learning, trouble, and its memory."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from policies import CLASSES, DAY, FACTS, decision, reply

from sparse_split_ros.evaluation.link_model import PRESETS, LinkSpec
from sparse_split_ros.evaluation.simulate import ROUTES, Segment, Simulation, calibration_of
from sparse_split_ros.evaluation.table import synthetic
from sparse_split_ros.link.estimate import Link, TailState
from sparse_split_ros.policy.candidates import Arm, Candidate
from sparse_split_ros.policy.cost import WEIGHTS, CostModel
from sparse_split_ros.policy.decision import Route
from sparse_split_ros.policy.factory import POLICIES, Settings, apply_live, make_policy
from sparse_split_ros.policy.facts import NEVER, Coding, Facts
from sparse_split_ros.policy.joint import JointPolicy
from sparse_split_ros.policy.plan import Plan, Policy, PolicyError
from sparse_split_ros.policy.risk import BINS, Labelled, bin_of
from sparse_split_ros.policy.scene import Scene

UP = Link(TailState.UP, rtt_ms=4.0, jitter_ms=0.5, goodput=math.nan, loss=0.0)
SKILL = (4.0, 5.0, 6.0, 7.0)
TABLE = synthetic(1, tracks=150, skill=SKILL)
CALIBRATION = calibration_of(synthetic(9, tracks=150, skill=SKILL))


def joint(profile: float = 20.0, **settings: float) -> JointPolicy:
    costs = CostModel(FACTS, profile=profile, deadline_ms=100)
    return JointPolicy(FACTS, costs, **{'calibration': CALIBRATION, 'target': 0.02, **settings})


def simulate(policy: Policy, segments: list[Segment], profile: float = 20.0, seed: int = 0):
    truth = CostModel(FACTS, profile=profile, deadline_ms=100)
    return Simulation(policy, FACTS, truth, seed=seed).run(segments)


def test_a_strict_target_raises_thresholds() -> None:
    def threshold(target: float) -> float:
        plan = joint(target=target, profile=1.0).choose(DAY, UP)
        return min(value for value in plan.thresholds[:-1] if value is not None)

    assert threshold(0.003) > threshold(0.05)


def test_a_fast_robot_computes_all_and_a_slow_one_asks() -> None:
    slow = replace(UP, rtt_ms=60.0)
    assert joint(profile=1.0, target=0.02).choose(DAY, slow).split == FACTS.final
    assert joint(profile=80.0, target=0.1).choose(DAY, UP).split < FACTS.final


def test_without_a_tail_it_stays_local_where_there_is_time() -> None:
    assert joint(profile=8.0).choose(DAY, Link(TailState.DOWN)).split == FACTS.final


def test_a_robot_without_the_last_stage_never_plans_it() -> None:
    policy = joint(profile=1.0, all_local=False)
    for state in TailState:
        assert policy.choose(DAY, Link(state)).split < FACTS.final


@pytest.mark.parametrize('calibration', [CALIBRATION, None])
def test_a_plan_that_cannot_keep_the_promise_is_in_time_at_least(calibration) -> None:
    # 136 ms to the deepest split, where 100 are allowed.
    settings = Settings(profile=20.0, deadline_ms=100.0, target_disagreement=1e-4, all_local=False)
    plan = make_policy('joint', FACTS, settings, calibration).choose(DAY, UP)
    costs = CostModel(FACTS, profile=20.0, deadline_ms=100.0)
    stages = tuple(k for k, value in enumerate(plan.thresholds) if value is not None)
    assert costs.compute_ms(plan.split, stages) <= 100 < costs.compute_ms(FACTS.splits[-1], ())


def test_every_plan_has_an_exit_to_fall_back_on() -> None:
    policy = joint(profile=20.0)
    for _ in range(500):
        plan = policy.choose(DAY, UP)
        assert any(value is not None for value in plan.thresholds[: plan.split + 1])
        assert plan.codec in FACTS.codings[plan.split] if plan.split < 3 else plan.codec == ''


@pytest.mark.parametrize('condition', ['day', 'fog'])
def test_the_promise_is_kept_and_most_frames_stay(condition: str) -> None:
    run = simulate(joint(), [Segment(TABLE.only(condition).shuffled(3, 4000), PRESETS['wifi'])])
    assert run.disagreement()[2000:].max() <= 0.02
    assert run.summary()['audits'] < 0.03


def test_a_change_the_scene_does_not_show_is_noticed() -> None:
    day, fog = TABLE.only('day').shuffled(1, 3000), TABLE.only('fog').shuffled(1, 3000)
    hidden = replace(fog, scene=np.zeros(len(fog), np.int64))
    policy = joint(profile=20.0, target=0.03)
    # The exits now err far more often than their confidence says.
    worse = hidden.prediction.copy()
    rng = np.random.default_rng(0)
    rows = rng.random(len(worse)) < 0.4
    worse[rows, :-1] = (worse[rows, :-1] + 1) % CLASSES
    hidden = replace(hidden, prediction=worse)
    run = simulate(policy, [Segment(day), Segment(hidden)])
    after = run.differs & run.promised
    assert policy.alarms >= 1
    assert after[4500:].mean() < 0.5 * 0.4


@pytest.mark.parametrize(
    'trouble',
    [
        pytest.param(replace(PRESETS['wifi'], loss=1.0), id='lost'),
        pytest.param(replace(PRESETS['wifi'], delay_ms=45.0), id='slow'),
    ],
)
def test_the_tail_is_asked_again_after_a_moment_of_trouble(trouble: LinkSpec) -> None:
    # This robot can compute all itself, and does while the tail is down.
    day = TABLE.only('day')
    segments = [(12, trouble), (4000, PRESETS['wifi'])]
    run = simulate(
        joint(profile=10.0), [Segment(day.shuffled(n, n), link) for n, link in segments], 10.0
    )
    assert (run.route[2000:] == ROUTES.index(Route.OFFBOARD)).mean() > 0.1


@pytest.mark.parametrize('kind', ['random', 'constant'])
def test_a_poisoned_tail_is_reported_and_teaches_nothing(kind: str) -> None:
    def tail(said: int, classes: int, random) -> int:
        return random.randrange(classes) if kind == 'random' else 11

    day = TABLE.only('day')
    policy = joint(profile=20.0)
    simulate(policy, [Segment(day.shuffled(1, 1500))])
    before = policy._scenes['day'].risk.curve.copy()
    simulate(policy, [Segment(day.shuffled(2, 4000), tail=tail)], seed=1)
    assert policy.feedback.poisoned
    assert 'poisoned' in str(policy.diagnostics()['feedback'])
    after = policy._scenes['day'].risk.curve
    # What the robot's own last exit says goes on teaching; confident bins hardly move by it.
    assert np.abs(after - before)[:, 16:].mean() < 0.01
    assert policy.choose(DAY, UP).split == FACTS.final


def answer(policy: JointPolicy, label: int, wrong: bool, scene: Scene = DAY) -> None:
    """The tail's word on another object, of which the robot was rather sure."""
    policy.choose(scene, UP)
    plan, said = Plan(0, (0.99, None, None, None), 'int4'), (label + 7 * wrong) % CLASSES
    policy.observe(
        decision(plan, {0: (label % CLASSES, 0.97)}, Route.OFFBOARD, (said, 0.9), scene=scene)
    )


def test_what_a_poisoned_tail_taught_before_it_was_noticed_is_unlearned() -> None:
    policy = joint()
    for label in range(200):
        answer(policy, label, wrong=False)
    risk = policy._scenes['day'].risk
    counts, scale = sum(risk.counts[0]), risk.scale
    for label in range(20):
        # Rarely asked, a poisoned tail is noticed late.
        for _ in range(150):
            policy.observe(decision(policy.choose(DAY, UP), {0: (1, 0.9999)}))
        if not policy.feedback.poisoned:
            answer(policy, label, wrong=True)
    assert policy.feedback.poisoned
    assert sum(risk.counts[0]) >= counts / 2 and sum(risk.errors[0]) <= 0 and risk.scale == scale


def test_a_poisoned_tail_does_not_erase_what_was_restored() -> None:
    first, second, fog = joint(), joint(), Scene(name='fog')
    for label in range(30):
        answer(first, label, wrong=False, scene=fog)
    second.restore(first.state())
    for label in range(20):
        answer(second, label, wrong=True)
    assert second.feedback.poisoned
    assert second._scenes['fog'].risk.counts == first._scenes['fog'].risk.counts


def test_without_the_last_stage_and_a_tail_to_believe_the_robot_answers_alone() -> None:
    def tail(said: int, classes: int, random) -> int:
        return random.randrange(classes)

    day = TABLE.only('day')
    policy = joint(all_local=False)
    run = simulate(
        policy, [Segment(day.shuffled(1, 500)), Segment(day.shuffled(2, 3000), tail=tail)]
    )
    last = run.part(3000, 3500)
    assert policy.feedback.poisoned and (last.route == ROUTES.index(Route.LOCAL)).all()
    assert last.differs.mean() < 0.05 and policy.diagnostics()['promise_feasible'] is False
    run = simulate(policy, [Segment(day.shuffled(3, 2500))], seed=1)
    assert not policy.feedback.poisoned and policy.diagnostics()['promise_feasible'] is True
    assert (run.part(2000, 2500).route == ROUTES.index(Route.OFFBOARD)).mean() > 0.1


def test_a_tail_that_is_not_believed_is_asked_again_whatever_the_budget() -> None:
    policy = joint(audit_share=0.0, audit_burst=0.0)
    for label in range(0, 80, 2):
        policy.feedback.add(label + 1, label, 0.8)
    plans = [policy.choose(DAY, UP) for _ in range(4000)]
    asked = [plan for plan in plans if plan.split < FACTS.final]
    assert all(plan.audit_probability == 1.0 for plan in asked)
    assert len(asked) / 4000 == pytest.approx(0.005, rel=0.4)


def test_state_is_restored_and_plans_are_the_same() -> None:
    first = joint()
    simulate(first, [Segment(TABLE.shuffled(1, 2000))])
    state = json.loads(json.dumps(first.state(), allow_nan=False))
    second, blank = joint(), joint(calibration=None)
    second.restore(state)
    blank.restore(state)
    assert second._scenes['day'].risk.answers == first._scenes['day'].risk.answers
    assert blank.state()['scenes'].keys() == first.state()['scenes'].keys()


def cautious() -> JointPolicy:
    """A policy just after an alarm."""
    policy = joint()
    policy.choose(DAY, UP)
    policy._scenes[DAY.name].risk.alarm()
    return policy


def caution(policy: JointPolicy) -> float:
    return policy._scenes[DAY.name].risk.caution


def test_caution_outlives_a_restart_and_changes_of_settings() -> None:
    policy = cautious()
    before = caution(policy)
    for deadline_ms in range(50, 60):
        apply_live(policy, Settings(deadline_ms=deadline_ms))
    restored = joint()
    restored.restore(json.loads(json.dumps(policy.state())))
    assert caution(restored) == caution(policy) == before > 1


def test_settings_that_stay_cost_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, settings = cautious(), Settings(deadline_ms=70.0)
    searched: list[str] = []
    refresh = JointPolicy._refresh
    monkeypatch.setattr(
        JointPolicy, '_refresh', lambda *args, **more: (searched.append(''), refresh(*args, **more))
    )
    apply_live(policy, settings)
    assert len(searched) == 1
    apply_live(policy, settings)
    assert len(searched) == 1


def test_the_state_of_a_bundle_without_early_exits_is_restored() -> None:
    alone = Facts('00' * 8, 10, (1000,), {0: 10})
    first = make_policy('joint', alone, Settings())
    for number in range(3):
        plan = first.choose(DAY, UP)
        first.observe(decision(plan, {0: (1, 0.9)}, sequence=number))
    state = json.loads(json.dumps(first.state()))
    second = make_policy('joint', alone, Settings())
    second.restore(state)
    assert second.state() == state and state['scenes']['day']['live'] == [[]] * 3
    assert second.choose(DAY, UP) == plan


@pytest.mark.parametrize('change', [
    lambda s: s.pop('scenes'), lambda s: s.update(exits=[0]), lambda s: s.update(edges=[]),
    lambda s: s['scenes']['day'].update(counts=[[1.0]]),
    lambda s: s['scenes']['day'].update(answers=math.nan),
    lambda s: s['scenes']['day']['first'][0].__setitem__(0, -1e6),
    lambda s: s['scenes']['day']['local'][0].__setitem__(0, -1e6),
    lambda s: s['scenes']['day']['counts'][0].__setitem__(0, -1e6),
    lambda s: s['scenes']['day']['counts'][0].__setitem__(0, 1e308),
    lambda s: s['scenes']['day']['errors'][0].__setitem__(0, -1e6),
    lambda s: s['scenes']['day'].update(scale=1e3), lambda s: s['scenes']['day'].update(caution=0),
    lambda s: s['scenes']['day'].update(live=[[1, 1, 1]], weights=[-1.0]),
    lambda s: s['scenes']['day'].update(live=[[1, 1, 1]], weights=[[1.0]]),
    lambda s: s['scenes']['day'].update(counts=np.zeros((BINS, 3)).tolist()),
    lambda s: s['scenes']['day'].update(live=[[99, 0, 0]], weights=[1.0]),
    lambda s: s['scenes']['day'].update(live=[[0], [0], [0]], weights=[1.0]),
])  # fmt: skip
def test_a_state_that_does_not_fit_changes_nothing(change) -> None:
    first = joint()
    first.choose(DAY, UP)
    state = json.loads(json.dumps(first.state()))
    change(state)
    second = joint()
    with pytest.raises(PolicyError):
        second.restore(state)
    assert second.state()['scenes'] == {}


def test_a_robot_without_calibration_looks_no_longer_after_a_restart() -> None:
    first, second = joint(calibration=None), joint(calibration=None)
    simulate(first, [Segment(TABLE.only('day').shuffled(1, 3000))])
    second.restore(json.loads(json.dumps(first.state())))
    before, after = first._scenes['day'], second._scenes['day']
    assert before.labelled > 400 and not before.looking
    assert (after.seen, after.labelled, after.looking) == (3000, before.labelled, False)


def test_a_state_from_before_first_exits_were_counted_is_taken() -> None:
    first = joint()
    simulate(first, [Segment(TABLE.shuffled(1, 500))])
    state = json.loads(json.dumps(first.state()))
    for scene in state['scenes'].values():
        del scene['first'], scene['seen'], scene['labelled']
    second = joint()
    second.restore(state)
    assert second._scenes['day'].risk.answers == first._scenes['day'].risk.answers
    assert np.sum(second._scenes['day'].risk.first) == 0


def test_a_sample_without_the_exit_that_was_seen_most_is_kept() -> None:
    policy = joint(calibration=None)
    policy.choose(DAY, UP)
    state = policy._scenes['day']
    state.risk.first[0][5], state.risk.first[1][5] = 400.0, 300.0
    for _ in range(3):
        state.add(Labelled([-1, 20, 20], [False] * 3, 1.0))
    bins, weights = state.sample()
    assert len(bins) == 1 and weights.sum() == 3.0


def test_what_a_codec_changes_is_charged_as_it_was_predicted() -> None:
    codings = {s: {'fp16': Coding(400, 0.004), 'int4': Coding(100, 0.02)} for s in (0, 1, 2)}
    policy = JointPolicy(replace(FACTS, codings=codings), CostModel(FACTS), target=0.02)
    policy.choose(DAY, UP)
    risk, charged = policy._scenes['day'].risk, []
    for codec in codings[0]:
        plan, before = Plan(0, (0.99, None, None, None), codec), risk.coding
        policy.observe(decision(plan, {0: (3, 0.5)}, Route.OFFBOARD, (3, 0.9)))
        charged.append(risk.coding - before)
    assert charged[1] == pytest.approx(5 * charged[0]) and charged[0] > 0


@pytest.mark.parametrize('confidence', [math.nan, 2.0, -1.0])
def test_impossible_confidences_are_counted_and_not_learned(confidence: float) -> None:
    policy = joint()
    plan = policy.choose(DAY, UP)
    policy.observe(decision(plan, {0: (3, confidence)}, Route.OFFBOARD, (3, 0.9)))
    assert policy.rejected == 1 and policy._scenes['day'].risk.answers == 0


@pytest.mark.parametrize(('before', 'errors'), [(None, 1.0), (NEVER, 1.0), (0.9, 3.0)])
def test_an_answer_that_an_exit_before_declined_is_charged_as_the_likelier_error_it_is(
    before: float | None, errors: float
) -> None:
    policy = joint()
    policy.choose(DAY, UP)
    policy._late = [1.0, 3.0, 1.0]
    plan = Plan(FACTS.final, (before, 0.9, None, 0.0), '')
    policy.observe(decision(plan, {0: (1, 0.5), 1: (1, 0.97)}))
    assert policy._scenes['day'].risk.local[1][bin_of(0.97)] == errors


@pytest.mark.parametrize(('poisoned', 'answers'), [(False, 1), (True, 0)])
def test_what_a_robot_answers_without_a_promise_is_not_counted(
    poisoned: bool, answers: int
) -> None:
    policy = joint(all_local=False)
    plan = policy.choose(DAY, UP)
    policy.feedback.poisoned = poisoned
    policy.observe(decision(plan, {0: (1, 0.99)}))
    assert policy._scenes['day'].risk.answers == answers


def test_an_audit_teaches_when_its_answer_comes() -> None:
    policy = joint(audit_share=0.5, audit_burst=0.5)
    plan = next(p for p in iter(lambda: policy.choose(DAY, UP), None) if p.audit_probability > 0)
    policy.observe(decision(plan, {0: (3, 0.999)}, audit=True, sequence=5))
    counts = policy._scenes['day'].risk.counts[0]
    assert sum(counts) == 0
    policy.observe_reply(5, reply(5, 3), late=False)
    once = sum(counts)
    # One in four is audited: neighbours are often of one object and count less than one each.
    assert once == pytest.approx(1 / (1 + 14 * plan.audit_probability))
    policy.observe_reply(5, reply(5, 3), late=False)
    assert sum(counts) == once


def test_two_cameras_are_each_held_against_their_own_scene() -> None:
    policy, fog = joint(target=0.05, all_local=False), Scene(name='fog')
    for number in range(15):
        plans = policy.choose(DAY, UP), policy.choose(fog, UP)
        policy.observe(decision(plans[0], {0: (1, 0.9999)}, sequence=2 * number))
        seen = decision(plans[1], {0: (1, 0.3)}, Route.OFFBOARD, (1, 0.9), 2 * number + 1)
        policy.observe(replace(seen, source=1, scene=fog))
    # Nearly all was expected to stop by day, and half of it in fog.
    assert policy._scenes['day'].shift._up == 0.0


def test_scenes_without_end_take_no_memory_without_end() -> None:
    policy = joint()
    for i in range(100):
        policy.choose(Scene(name=str(i)), UP)
    assert len(policy.state()['scenes']) <= 16


def test_another_arm_must_be_two_per_cent_cheaper() -> None:
    policy = joint()
    policy.choose(DAY, UP)
    state, thresholds = policy._scenes['day'], (None, None, None, 0.0)
    now, other = (
        Candidate(Arm(FACTS.final, exits), '', thresholds, (), 1.0, 0.0, True)
        for exits in ((), (0,))
    )
    state.looking, policy._before = False, now.arm
    for cost, chosen in ((9.81, now), (9.79, other)):
        state.contenders = [(now, 10.0, 0.0), (other, cost, 0.0)]
        assert policy._cheapest(state, UP) is chosen


def test_choosing_takes_microseconds() -> None:
    policy = joint()
    simulate(policy, [Segment(TABLE.only('day').shuffled(1, 1000))])
    taken = []
    for _ in range(4000):
        start = time.thread_time_ns()
        policy.choose(DAY, UP)
        taken.append((time.thread_time_ns() - start) / 1e3)
    # The mark is 50 µs for p99; a slower machine gets some room here.
    assert np.percentile(taken, 50) < 25 and np.percentile(taken, 99) < 150


ALONE = Facts('00' * 8, CLASSES, (1_000_000,), {0: 10_000})


@pytest.mark.parametrize('name', POLICIES)
def test_a_bundle_of_one_exit_answers_locally(name: str) -> None:
    facts = replace(ALONE, default=(0, 0.9, ''))
    policy = make_policy(name, facts, Settings())
    plan = policy.choose(DAY, UP)
    assert plan.split == 0 and plan.thresholds == (0.0,)
    policy.observe(decision(plan, {0: (1, 0.8)}))


@pytest.mark.parametrize('name', POLICIES)
def test_every_policy_fits_the_interface(name: str) -> None:
    policy = make_policy(name, FACTS, Settings(profile=20.0), CALIBRATION)
    run = simulate(policy, [Segment(TABLE.shuffled(0, 600), PRESETS['lte'])])
    assert len(run) == 600 and np.isfinite(run.cost).all()


@pytest.mark.parametrize('settings', [
    Settings(codec='int3'), Settings(split=9), Settings(index='ucb9'),
])  # fmt: skip
def test_settings_a_bundle_cannot_follow_are_refused(settings: Settings) -> None:
    with pytest.raises(PolicyError):
        make_policy('fixed', FACTS, settings)


@pytest.mark.parametrize('change', [
    {'target_disagreement': 0.0}, {'weights': 'speed'}, {'deadline_ms': -1.0}, {'audit_budget': 2},
])  # fmt: skip
def test_live_changes_are_taken_whole_or_not_at_all(change: dict[str, object]) -> None:
    policy = make_policy('joint', FACTS, Settings(), CALIBRATION)
    assert isinstance(policy, JointPolicy)
    with pytest.raises(PolicyError):
        apply_live(policy, replace(Settings(weights='frugal'), **change))
    assert policy.costs.weights == WEIGHTS['latency'] and policy.target == 0.01
    apply_live(policy, Settings(target_disagreement=0.05, deadline_ms=40.0))
    assert policy.target == 0.05 and policy.costs.deadline_ms == 40.0


def test_without_calibration_it_first_looks_and_then_answers_early() -> None:
    policy = joint(calibration=None, target=0.02, profile=1.0)
    run = simulate(policy, [Segment(TABLE.only('day').shuffled(1, 6000))], profile=1.0)
    assert policy._scenes['day'].labelled > 400
    assert (run.exit[:300] < FACTS.final).mean() < 0.2
    assert (run.exit[-1000:] < FACTS.final).mean() > 0.5
    assert run.disagreement()[2000:].max() < 0.02


def thresholds(plan: Plan) -> list[float]:
    return [value for value in plan.thresholds[: FACTS.final] if value is not None]


def test_a_stream_that_was_not_seen_yet_is_met_with_care() -> None:
    policy = joint(profile=1.0, target=0.05)
    start = policy.choose(DAY, UP)
    for stage, threshold in enumerate(start.thresholds[: FACTS.final]):
        if threshold is not None:
            curve = policy._scenes['day'].risk.curve[stage]
            assert curve[bin_of(threshold)] <= 0.1, 'no answer is riskier than twice the target'
    for number in range(60):
        policy.observe(decision(policy.choose(DAY, UP), {0: (1, 0.9999)}, sequence=number))
    assert min(thresholds(policy.choose(DAY, UP))) < min(thresholds(start))


def test_at_the_same_thresholds_the_same_frames_stop_whatever_the_split() -> None:
    policy = joint(target=0.05)
    policy.choose(DAY, UP)
    found: dict[tuple[float | None, ...], set[tuple[tuple[float, ...], float]]] = {}
    arms: dict[tuple[float | None, ...], int] = {}
    for item in policy._scenes['day'].candidates:
        key = item.thresholds[: FACTS.final]
        found.setdefault(key, set()).add((item.stops, item.rest))
        arms[key] = arms.get(key, 0) + 1
    assert max(arms.values()) > 1
    assert all(len(shares) == 1 for shares in found.values())


def test_what_one_scene_has_overdrawn_is_paid_back_in_all() -> None:
    night = Scene(name='night')
    plain, indebted = joint(profile=1.0), joint(profile=1.0)
    for policy in (plain, indebted):
        policy.choose(night, UP)
    # A hundred wrong answers in the first thousand at night.
    indebted._scenes['night'].risk.answers = 1000.0
    indebted._scenes['night'].risk.coding = 100.0
    risks = [
        max(item.risk for item in policy._scenes['day'].candidates if item.kept)
        for policy in (plain, indebted)
        if policy.choose(DAY, UP)
    ]
    assert risks[1] <= 0.002 < risks[0]


def test_a_long_sound_past_in_other_scenes_costs_no_early_answers() -> None:
    night = Scene(name='night')
    plain, old = joint(profile=1.0, target=0.02), joint(profile=1.0, target=0.02)
    for policy in (plain, old):
        policy.choose(night, UP)
        policy.choose(DAY, UP)
        policy._scenes['day'].risk.answers = 20_000.0
    # A million answers at night, which spent seven tenths of what they could.
    old._scenes['night'].risk.answers = 1e6
    old._scenes['night'].risk.coding = 0.7 * 0.02 * 1e6
    best = []
    for policy in (plain, old):
        policy._refresh(policy._scenes['day'])
        best.append(max(item.risk for item in policy._scenes['day'].candidates if item.kept))
    assert best[1] > 0.9 * best[0]
