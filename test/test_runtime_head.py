# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The head, event by event: what each one decides, sends and counts."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from bundles import make_bundle
from simulation import FakeEngine, StaticPolicy

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import FeatureFrame, Flag, ReplyFrame, Status
from sparse_split_ros.link.tracker import Arrival
from sparse_split_ros.policy.decision import Decision, Reason, Route
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.head import Computed, Head, Step, compute, slowed

DEADLINE = 0.125  # a power of two: sums of times stay exact
SURE, DOUBTFUL = 0.95, 0.5
PLAN = Plan(1, (0.9, 0.9, None), 'none')


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('head') / 'bundle', bottleneck=None)


class Robot:
    """A head with a fake engine; frames are computed in no time."""

    def __init__(self, bundle: Bundle, plan: Plan = PLAN, max_in_flight: int = 64) -> None:
        self.bundle = bundle
        self.engine = FakeEngine(bundle)
        self.policy = StaticPolicy(plan)
        self.head = Head(
            bundle, self.policy, deadline=DEADLINE, session=5, max_in_flight=max_in_flight
        )

    def hello(self, now: float = 0.0, session: int = 1, fingerprint: str = '') -> None:
        served = fingerprint or self.bundle.fingerprint.hex()
        self.head.announced(Announcement('tail', session, (served,)), now)

    def frame(self, number: int, confidence: float, arrived: float, now: float = -1.0) -> Step:
        now = max(now, arrived)
        ticket = self.head.begin(3, f'header {number}', Scene(), arrived, now)
        x = self.engine.image(number, confidence)
        return self.head.computed(ticket.sequence, compute(self.engine, ticket, x), now)

    def reply(self, sequence: int, now: float, **changes: object) -> Step:
        scores = np.eye(5, dtype=np.float32)[4]
        frame = ReplyFrame(Status.OK, self.bundle.fingerprint, 5, sequence, scores, 2000)
        return self.head.answer(replace(frame, **changes), now)  # type: ignore[arg-type]


def told(*decisions: Decision) -> list[Decision]:
    """What a policy observes of these."""
    return [replace(decision, header=None) for decision in decisions]


@pytest.fixture
def robot(bundle: Bundle) -> Robot:
    """A robot whose tail is up since 0 s."""
    robot = Robot(bundle)
    robot.hello()
    return robot


@pytest.fixture
def lone(bundle: Bundle) -> Robot:
    """A robot that never heard of a tail."""
    return Robot(bundle)


def test_a_reply_after_the_deadline_is_late_though_nobody_looked_at_the_clock(
    robot: Robot,
) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    (decision,) = robot.reply(1, 2.0 + DEADLINE).decisions
    assert (decision.route, decision.reason) == (Route.FALLBACK, Reason.DEADLINE)
    replies = robot.head.counts.replies
    assert (replies[Arrival.LATE], replies[Arrival.IN_TIME]) == (1, 0)


def test_a_confident_frame_is_answered_on_the_robot(robot: Robot) -> None:
    step = robot.frame(2, SURE, 1.0)
    (decision,) = step.decisions
    assert step.frame is None
    assert (decision.route, decision.reason) == (Route.LOCAL, Reason.CONFIDENT)
    assert (decision.exit, decision.label, decision.threshold) == (0, 2, 0.9)
    assert decision.confidence == pytest.approx(SURE)


def test_the_header_and_the_camera_are_carried_through(robot: Robot) -> None:
    (decision,) = robot.frame(2, SURE, 1.0).decisions
    assert (decision.header, decision.source) == ('header 2', 3)


def test_a_doubtful_frame_is_sent_and_not_yet_decided(robot: Robot) -> None:
    step = robot.frame(2, DOUBTFUL, 1.0, now=1.025)
    assert step.decisions == () and step.frame is not None
    frame = FeatureFrame.parse(step.frame)
    assert (frame.session, frame.sequence, frame.split, frame.source) == (5, 1, 1, 3)
    assert frame.fingerprint == robot.bundle.fingerprint
    assert (frame.budget_ms, frame.age_ms, frame.flags) == (100, 24, Flag.NONE)


def test_an_answer_in_time_decides(robot: Robot) -> None:
    sent = robot.frame(2, DOUBTFUL, 1.0).frame
    (decision,) = robot.reply(1, 1.05).decisions
    assert (decision.route, decision.reason) == (Route.OFFBOARD, Reason.ANSWERED)
    assert (decision.exit, decision.label, decision.header) == (2, 4, 'header 2')
    assert decision.payload_bytes == len(sent or b'')
    assert decision.times.tail == 2.0
    assert decision.times.offboard == decision.times.total == pytest.approx(50.0)


def test_a_missed_deadline_falls_back_to_the_deepest_exit_on_the_robot(robot: Robot) -> None:
    robot.frame(2, DOUBTFUL, 1.0, now=1.05)
    assert robot.head.next_deadline() == 1.0 + DEADLINE, 'counted from the arrival'
    assert robot.head.tick(np.nextafter(1.0 + DEADLINE, 0)).decisions == ()
    (decision,) = robot.head.tick(1.0 + DEADLINE).decisions
    assert (decision.route, decision.reason) == (Route.FALLBACK, Reason.DEADLINE)
    assert (decision.exit, decision.label) == (1, 2)
    assert decision.confidence == pytest.approx(DOUBTFUL)


def test_a_late_reply_teaches_and_never_publishes(robot: Robot) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    robot.head.tick(1.0 + DEADLINE)
    assert robot.reply(1, 1.5) == Step()
    assert robot.policy.taught == [(1, True)]
    assert robot.reply(1, 1.6) == Step()
    assert robot.policy.taught == [(1, True)]


def test_a_repeated_reply_publishes_once(robot: Robot) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    assert len(robot.reply(1, 1.01).decisions) == 1
    assert robot.reply(1, 1.02) == Step()
    assert robot.head.counts.replies[Arrival.REPEATED] == 1


@pytest.mark.parametrize('wrong', [{'session': 6}, {'sequence': 9}])
def test_a_reply_to_another_head_or_frame_is_ignored(robot: Robot, wrong: dict[str, int]) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    assert robot.reply(**{'sequence': 1, 'now': 1.01, **wrong}) == Step()  # type: ignore[arg-type]
    assert len(robot.head.tracker) == 1


@pytest.mark.parametrize(
    'changes',
    [
        {'status': Status.FAILED, 'scores': np.zeros(0, np.float32)},
        {'status': Status.BAD_PAYLOAD, 'scores': np.zeros(0, np.float32)},
        {'scores': np.zeros(4, np.float32)},
        {'scores': np.zeros(0, np.float32)},
    ],
)
def test_a_refusal_or_an_unusable_answer_falls_back_at_once(
    robot: Robot, changes: dict[str, object]
) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    (decision,) = robot.reply(1, 1.01, **changes).decisions
    assert (decision.route, decision.reason) == (Route.FALLBACK, Reason.TAIL_REFUSED)
    assert robot.head.counts.refused == 1


def test_an_answer_from_another_bundle_is_none(robot: Robot) -> None:
    robot.frame(2, DOUBTFUL, 1.0)
    assert robot.reply(1, 1.01, fingerprint=bytes(8)) == Step()
    assert len(robot.reply(1, 1.02).decisions) == 1, 'the tail that was asked may still answer'


@pytest.mark.parametrize('confidence', [SURE, DOUBTFUL])
def test_without_a_tail_every_frame_is_answered_at_once(lone: Robot, confidence: float) -> None:
    step = lone.frame(2, confidence, 1.0)
    (decision,) = step.decisions
    assert step.frame is None
    expected = Reason.CONFIDENT if confidence == SURE else Reason.TAIL_UNKNOWN
    assert decision.reason is expected


def test_with_a_foreign_tail_doubtful_frames_are_answered_at_once(lone: Robot) -> None:
    lone.hello(fingerprint='00' * 8)
    step = lone.frame(2, DOUBTFUL, 1.0)
    assert step.frame is None and step.decisions[0].reason is Reason.TAIL_FOREIGN
    assert lone.head.tracker.state is TailState.FOREIGN


def lose_the_tail(robot: Robot) -> float:
    """Miss a deadline; the moment at which the tail is DOWN."""
    robot.frame(0, DOUBTFUL, 1.0)
    robot.head.tick(1.0 + DEADLINE)
    assert robot.head.tracker.state is TailState.DOWN
    return 1.0 + DEADLINE


@pytest.mark.parametrize('confidence', [SURE, DOUBTFUL])
def test_while_down_a_frame_is_answered_and_probes(robot: Robot, confidence: float) -> None:
    now = lose_the_tail(robot)
    step = robot.frame(1, confidence, now)
    assert len(step.decisions) == 1 and step.frame is not None
    assert FeatureFrame.parse(step.frame).flags is Flag.PROBE
    assert robot.frame(2, confidence, now + 0.1).frame is None
    assert robot.frame(3, confidence, now + 0.25).frame is not None


def test_frames_that_are_computed_together_send_one_probe(robot: Robot) -> None:
    now = lose_the_tail(robot)
    tickets = [robot.head.begin(0, None, Scene(), now, now) for _ in range(3)]
    x = robot.engine.image(0, DOUBTFUL)
    steps = [
        robot.head.computed(ticket.sequence, compute(robot.engine, ticket, x), now)
        for ticket in tickets
    ]
    assert [step.frame is not None for step in steps] == [True, False, False]
    assert all(len(step.decisions) == 1 for step in steps)


def test_an_answered_probe_publishes_nothing_and_opens_up(robot: Robot) -> None:
    now = lose_the_tail(robot)
    robot.frame(1, DOUBTFUL, now)
    assert robot.reply(2, now + 0.01) == Step()
    assert robot.policy.taught == [(2, False)]
    assert robot.head.tracker.state is TailState.UP
    assert robot.frame(2, DOUBTFUL, now + 0.02).decisions == ()


def test_a_lost_probe_publishes_nothing(robot: Robot) -> None:
    now = lose_the_tail(robot)
    robot.frame(1, DOUBTFUL, now)
    assert robot.head.tick(now + DEADLINE) == Step()


def test_a_probe_is_not_sent_to_a_tail_that_became_foreign(robot: Robot) -> None:
    now = lose_the_tail(robot) + 2.0
    ticket = robot.head.begin(0, None, Scene(), now, now)
    robot.hello(now, session=2, fingerprint='00' * 8)
    computed = compute(robot.engine, ticket, robot.engine.image(0, DOUBTFUL))
    assert robot.head.computed(ticket.sequence, computed, now).frame is None


def test_a_frame_of_a_tail_that_came_back_meanwhile_needs_features_to_ask(lone: Robot) -> None:
    ticket = lone.head.begin(0, None, Scene(), 1.0, 1.0)
    computed = compute(lone.engine, ticket, lone.engine.image(0, DOUBTFUL))
    assert computed.features is None, 'not encoded when nobody could take them'
    lone.hello(1.0)
    (decision,) = lone.head.computed(ticket.sequence, computed, 1.01).decisions
    assert decision.route is Route.FALLBACK


def test_an_audited_frame_is_answered_locally_and_sent_whole(bundle: Bundle) -> None:
    robot = Robot(bundle, replace(PLAN, codec='int8', audit_probability=1.0))
    robot.hello()
    step = robot.frame(2, SURE, 1.0, now=1.0625)
    (decision,) = step.decisions
    assert (decision.route, decision.audit, decision.exit) == (Route.LOCAL, True, 0)
    assert step.frame is not None
    frame = FeatureFrame.parse(step.frame)
    assert (frame.flags, frame.codec.label) == (Flag.AUDIT, 'fp16')
    assert (frame.age_ms, frame.budget_ms) == (62, 125), 'nobody waits: it has all of the time'
    assert robot.reply(1, 1.07) == Step()
    assert robot.policy.taught == [(1, False)]


def test_nobody_is_audited_by_a_tail_that_is_not_there(bundle: Bundle) -> None:
    lone = Robot(bundle, replace(PLAN, audit_probability=1.0))
    assert not lone.frame(2, SURE, 1.0).decisions[0].audit


def test_sequences_begin_anew_after_the_last_that_fits_the_wire(robot: Robot) -> None:
    robot.head._sequence = 0xFFFFFFFE
    steps = [robot.frame(number, DOUBTFUL, 1.0 + number) for number in range(2)]
    assert [FeatureFrame.parse(step.frame).sequence for step in steps] == [0xFFFFFFFF, 0]


def test_audits_are_drawn_with_their_probability_and_seed(bundle: Bundle) -> None:
    def audited() -> list[bool]:
        robot = Robot(bundle, replace(PLAN, audit_probability=0.2))
        robot.hello()
        decisions = [robot.frame(n, SURE, n / 1024).decisions[0] for n in range(500)]
        return [decision.audit for decision in decisions]

    first = audited()
    assert first == audited()
    # Binomial: 100 +- 9 (one standard deviation).
    assert 70 < sum(first) < 130


def test_a_frame_whose_time_ran_out_while_computing_is_not_sent(robot: Robot) -> None:
    step = robot.frame(2, DOUBTFUL, 1.0, now=1.0 + DEADLINE)
    assert step.frame is None and step.decisions[0].reason is Reason.NO_TIME


@pytest.mark.parametrize('audit', [0.0, 1.0])
def test_what_waits_for_the_tail_is_bounded(bundle: Bundle, audit: float) -> None:
    robot = Robot(bundle, replace(PLAN, audit_probability=audit), max_in_flight=2)
    robot.hello()
    confidence = SURE if audit else DOUBTFUL
    steps = [robot.frame(n, confidence, 1.0) for n in range(4)]
    assert [step.frame is not None for step in steps] == [True, True, False, False]
    assert len(robot.head.tracker) == 2
    if not audit:
        assert [step.decisions[0].reason for step in steps[2:]] == [Reason.FULL] * 2


def test_the_last_stage_as_split_answers_everything_on_the_robot(bundle: Bundle) -> None:
    robot = Robot(bundle, Plan(2, (0.9, 0.9, 0.0), 'none', 1.0))
    robot.hello()
    step = robot.frame(2, DOUBTFUL, 1.0)
    assert step.frame is None
    assert (step.decisions[0].route, step.decisions[0].exit) == (Route.LOCAL, 2)


def test_a_failed_frame_is_counted_and_gone(robot: Robot) -> None:
    ticket = robot.head.begin(0, None, Scene(), 1.0, 1.0)
    robot.head.failed(ticket.sequence)
    robot.head.failed(ticket.sequence)
    assert (robot.head.counts.accepted, robot.head.counts.failed) == (1, 1)
    assert robot.head.stop(2.0) == Step()


@pytest.mark.parametrize('audit', [0.0, 1.0])
def test_features_that_cannot_be_coded_cost_no_answer(bundle: Bundle, audit: float) -> None:
    robot = Robot(bundle, replace(PLAN, audit_probability=audit))
    robot.hello()
    ticket = robot.head.begin(0, None, Scene(), 1.0, 1.0)
    computed = compute(robot.engine, ticket, robot.engine.image(2, SURE if audit else DOUBTFUL))
    broken = replace(computed, features=np.full(robot.bundle.split_at(1).shape, np.nan)[None])
    step = robot.head.computed(ticket.sequence, broken, 1.0)
    (decision,) = step.decisions
    expected = (Route.LOCAL, Reason.CONFIDENT) if audit else (Route.FALLBACK, Reason.UNSENDABLE)
    assert (decision.route, decision.reason) == expected
    assert decision.label == 2 and decision.payload_bytes == 0 and step.frame is None
    assert len(robot.head.tracker) == robot.head.counts.sent == 0
    assert robot.head.counts.unsendable == 1


def test_a_probe_has_no_more_time_than_a_frame_in_doubt(robot: Robot) -> None:
    now = lose_the_tail(robot) + 2.0
    step = robot.frame(1, DOUBTFUL, now, now=now + 0.0625)
    assert step.frame is not None
    frame = FeatureFrame.parse(step.frame)
    assert (frame.flags, frame.budget_ms) == (Flag.PROBE, int(1e3 * DEADLINE - 62.5))
    robot.head.tick(now + DEADLINE)
    robot.reply(frame.sequence, now + 0.0625 + DEADLINE)
    assert robot.head.tracker.state is TailState.DOWN, 'frames in doubt would come back as late'


def test_a_frame_without_time_left_is_no_probe(robot: Robot) -> None:
    now = lose_the_tail(robot) + 2.0
    assert robot.frame(1, DOUBTFUL, now, now=now + DEADLINE).frame is None


def test_a_policy_gets_no_image_to_keep(robot: Robot) -> None:
    (decision,) = robot.frame(1, SURE, 1.0).decisions
    robot.head.teach()
    assert decision.header == 'header 1'
    assert robot.policy.observed == told(decision)


def test_stopping_answers_all_that_waits(robot: Robot) -> None:
    for number in range(3):
        robot.frame(number, DOUBTFUL, 1.0)
    decisions = robot.head.stop(1.01).decisions
    assert [decision.header for decision in decisions] == ['header 0', 'header 1', 'header 2']
    assert {decision.reason for decision in decisions} == {Reason.SHUTDOWN}


def test_after_stopping_nothing_is_decided_again(robot: Robot) -> None:
    robot.frame(0, DOUBTFUL, 1.0)
    robot.head.stop(1.01)
    assert robot.reply(1, 1.02) == Step()
    assert robot.head.tick(5.0) == Step()
    assert robot.head.stop(5.0) == Step()


def test_a_frame_still_computed_when_stopping_counts_as_failed(robot: Robot) -> None:
    ticket = robot.head.begin(0, None, Scene(), 1.0, 1.0)
    computed = compute(robot.engine, ticket, robot.engine.image(0, DOUBTFUL))
    assert robot.head.stop(1.01) == Step()
    assert robot.head.counts.failed == 1
    assert robot.head.computed(ticket.sequence, computed, 1.02) == Step()


def test_a_change_of_policy_and_deadline_is_taken_from_the_next_frame_on(robot: Robot) -> None:
    robot.frame(0, DOUBTFUL, 1.0)
    robot.head.deadline = 2 * DEADLINE
    robot.head.policy = StaticPolicy(replace(PLAN, thresholds=(0.4, 0.4, None)))
    assert robot.frame(1, DOUBTFUL, 1.0).decisions[0].route is Route.LOCAL
    assert robot.head.next_deadline() == 1.0 + DEADLINE


def test_times_add_up(robot: Robot) -> None:
    ticket = robot.head.begin(0, None, Scene(), 1.0, 1.010)
    computed = compute(robot.engine, ticket, robot.engine.image(0, DOUBTFUL), prepare_ms=4.0)
    robot.head.computed(ticket.sequence, computed, 1.030)
    (decision,) = robot.reply(1, 1.050).decisions
    times = decision.times
    assert (times.queue, times.prepare) == (pytest.approx(6.0), 4.0)
    assert times.offboard == pytest.approx(20.0) and times.total == pytest.approx(50.0)


@pytest.mark.parametrize('confidence', [0.8999, 0.9, 0.9001])
def test_the_threshold_means_the_same_to_the_network_and_the_decision(
    robot: Robot, confidence: float
) -> None:
    # 0.9 as float32 is below 0.9: comparing it as float32 would stop where the network did not.
    step = robot.frame(0, confidence, 1.0)
    confident = float(np.float32(confidence)) >= 0.9
    assert (step.frame is None) == confident


def test_a_decision_tells_what_every_evaluated_exit_said(robot: Robot) -> None:
    (decision,) = robot.frame(2, SURE, 1.0).decisions
    assert [(said.stage, said.label) for said in decision.exits] == [(0, 2)]
    robot.frame(3, DOUBTFUL, 2.0)
    (decision,) = robot.reply(2, 2.05).decisions
    assert [said.stage for said in decision.exits] == [0, 1]
    assert decision.exits[1].confidence == pytest.approx(DOUBTFUL)


def test_what_the_engine_measured_reaches_the_decision(bundle: Bundle) -> None:
    head = Head(bundle, StaticPolicy(PLAN), deadline=DEADLINE, session=5)
    ticket = head.begin(0, None, Scene(), 1.0, 1.0)
    x = np.zeros((1, *bundle.input.shape), np.float32)
    computed = slowed(compute(load_engine(bundle, 'onnxruntime'), ticket, x), 4.0)
    (decision,) = head.computed(ticket.sequence, computed, 1.01).decisions
    assert decision.stage_ms.keys() >= {0} and decision.exit_ms.keys() == {
        said.stage for said in decision.exits
    }
    assert decision.times.compute == computed.compute_ms > sum(decision.stage_ms.values()) > 0


def test_slowness_multiplies_every_time_and_nothing_else(robot: Robot) -> None:
    once = Computed({}, None, None, 3.0, 2.0, {0: 1.0}, {0: 0.5})
    ten = slowed(once, 10.0)
    assert (ten.compute_ms, ten.stage_ms, ten.exit_ms) == (20.0, {0: 10.0}, {0: 5.0})
    assert (ten.prepare_ms, once.compute_ms) == (3.0, 2.0)


def test_a_robot_that_holds_everything_audits_itself_without_a_tail(bundle: Bundle) -> None:
    robot = Robot(bundle, Plan(2, (0.9, None, 0.0), '', audit_probability=1.0))
    step = robot.frame(2, SURE, 1.0)
    (decision,) = step.decisions
    assert step.frame is None and decision.audit
    assert (decision.route, decision.exit, decision.label) == (Route.LOCAL, 0, 2)
    assert [(said.stage, said.label) for said in decision.exits] == [(0, 2), (2, 3)]


def test_an_answer_does_not_wait_for_what_it_teaches(robot: Robot) -> None:
    (decision,) = robot.frame(2, SURE, 1.0).decisions
    assert robot.policy.observed == [], 'it is to be published first'
    robot.head.teach()
    robot.head.teach()
    assert robot.policy.observed == told(decision)


def test_what_is_decided_is_observed_before_the_next_plan(robot: Robot) -> None:
    decisions = [robot.frame(number, SURE, 1.0).decisions[0] for number in range(3)]
    assert robot.policy.observed == told(*decisions[:2])
    robot.head.begin(0, None, Scene(), 1.0, 1.0)
    assert robot.policy.observed == told(*decisions)


def test_an_audit_is_observed_before_its_reply_teaches(bundle: Bundle) -> None:
    robot = Robot(bundle, replace(PLAN, audit_probability=1.0))
    robot.hello()
    (decision,) = robot.frame(2, SURE, 1.0).decisions
    assert decision.audit and robot.policy.observed == []
    robot.reply(1, 1.05)
    assert (robot.policy.observed, robot.policy.taught) == (told(decision), [(1, False)])


class Raising(StaticPolicy):
    """A policy that raises at some events."""

    def __init__(self, plan: Plan, at: set[str]) -> None:
        super().__init__(plan)
        self.at = at

    def choose(self, scene: Scene, link: object) -> Plan:
        self._maybe('choose')
        return super().choose(scene, link)

    def observe(self, decision: Decision) -> None:
        self._maybe('observe')
        super().observe(decision)

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        self._maybe('observe_reply')
        super().observe_reply(sequence, reply, late)

    def diagnostics(self) -> dict[str, object]:
        self._maybe('diagnostics')
        return {'policy': 'static'}

    def _maybe(self, event: str) -> None:
        if event in self.at:
            raise KeyError(f'no {event}')


Faults = list[tuple[str, str]]


def faulty(bundle: Bundle, at: set[str], plan: Plan = PLAN) -> tuple[Robot, Raising, Faults]:
    """A robot with a tail whose policy raises; the policy, and what the head says of it."""
    robot, policy, said = Robot(bundle), Raising(plan, at), Faults()
    robot.head = Head(
        bundle, policy, deadline=DEADLINE, session=5, complain=lambda *fault: said.append(fault)
    )
    robot.hello()
    return robot, policy, said


def test_a_policy_that_raises_at_observing_costs_no_frame_of_a_tick(bundle: Bundle) -> None:
    robot, policy, said = faulty(bundle, {'observe'})
    for number in range(3):
        robot.frame(number, DOUBTFUL, 1.0)
    decisions = robot.head.tick(1.0 + DEADLINE).decisions
    assert [decision.header for decision in decisions] == ['header 0', 'header 1', 'header 2']
    assert {decision.reason for decision in decisions} == {Reason.DEADLINE}
    robot.head.teach()
    assert robot.head.counts.routes[Route.FALLBACK] == robot.head.counts.policy_faults == 3
    assert [kind for kind, _ in said] == ['policy observe'] * 3
    place = r"KeyError: 'no observe' \(test_runtime_head.py:\d+\)"
    assert all(re.fullmatch(place, text) for _, text in said)
    policy.at = set()
    (decision,) = robot.frame(3, SURE, 2.0).decisions
    robot.head.teach()
    assert policy.observed == told(decision), 'it goes on with what comes next'


def test_a_policy_that_raises_at_choosing_gets_the_bundles_own_plan(bundle: Bundle) -> None:
    robot, policy, said = faulty(bundle, {'choose'}, replace(PLAN, thresholds=(0.4, 0.4, None)))
    default = bundle.defaults
    ticket = robot.head.begin(0, None, Scene(), 1.0, 1.0)
    assert (ticket.plan.split, ticket.plan.codec) == (default.split, default.codec)
    assert ticket.plan.thresholds[default.split] == default.threshold
    step = robot.frame(1, SURE, 1.0)
    assert (step.decisions[0].route, step.decisions[0].label) == (Route.LOCAL, 1)
    assert robot.frame(2, DOUBTFUL, 1.0).frame is not None
    assert [kind for kind, _ in said] == ['policy choose'] * 3
    place = r"KeyError: 'no choose' \(test_runtime_head.py:\d+\)"
    assert all(re.fullmatch(place, text) for _, text in said)
    policy.at = set()
    (decision,) = robot.frame(3, DOUBTFUL, 1.0).decisions
    assert decision.threshold == 0.4, 'its own plan again'


def test_the_plan_of_last_resort_follows_what_the_bundle_can_do(bundle: Bundle) -> None:
    absurd = replace(bundle, defaults=replace(bundle.defaults, split=bundle.final, codec='lost'))
    robot, _, _ = faulty(absurd, {'choose'})
    plan = robot.head.begin(0, None, Scene(), 1.0, 1.0).plan
    assert plan.split == 1 and plan.codec in bundle.split_at(1).codecs
    robot, _, _ = faulty(replace(absurd, splits=()), {'choose'})
    plan = robot.head.begin(0, None, Scene(), 1.0, 1.0).plan
    assert (plan.split, plan.codec, plan.thresholds[-1]) == (bundle.final, '', 0.0)


def test_a_policy_that_raises_at_replies_or_diagnostics_ends_nothing(bundle: Bundle) -> None:
    robot, policy, said = faulty(bundle, {'observe_reply', 'diagnostics'})
    robot.frame(2, DOUBTFUL, 1.0)
    robot.head.tick(1.0 + DEADLINE)
    assert robot.reply(1, 1.5) == Step()
    assert robot.head.diagnosed() == {}
    assert [kind for kind, _ in said] == ['policy observe_reply', 'policy diagnostics']
    policy.at = set()
    assert robot.head.diagnosed() == {'policy': 'static'}
