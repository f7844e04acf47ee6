# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Head, lossy link and tail in virtual time: the real state machines, an event queue for a clock.

Frames are numbered, and the number is all that an image, its features and its scores say: an answer
that belongs to another frame shows at once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import FrameError, ReplyFrame
from sparse_split_ros.policy.decision import Decision, Route
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import EngineError, EngineResult
from sparse_split_ros.runtime.head import Computed, Head, Step, compute
from sparse_split_ros.runtime.tail import Tail

HEARTBEAT = 0.5
Array = np.ndarray


class FakeEngine:
    """An engine that reads a frame's number and confidence off its input and computes nothing.

    The robot's exits answer class number mod K with the confidence given, the last exit class
    number + 1 mod K surely. ``faulty`` numbers raise EngineError.
    """

    name = 'fake'

    def __init__(self, bundle: Bundle, faulty: frozenset[int] = frozenset()) -> None:
        self.bundle = bundle
        self.faulty = faulty
        self.batches: list[int] = []

    def image(self, number: int, confidence: float) -> Array:
        """The prepared image of a frame, (1, 3, H, W) float32."""
        x = np.zeros((1, *self.bundle.input.shape), np.float32)
        x[0, 0, 0, :2] = number, confidence
        return x

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        # Damaged features may hold any number, so keep to those that fit an integer.
        numbers, confidences = np.clip(x[:, 0, 0, 0], 0, 2**24), np.clip(x[:, 0, 0, 1], 0, 1)
        if any(int(number) in self.faulty for number in numbers):
            raise EngineError(f'stage {first} gave a value that is not finite')
        if first:
            self.batches.append(len(x))
        count = len(self.bundle.classes)
        exits: dict[int, Array] = {}
        stopped = None
        for stage in range(first, last + 1):
            threshold = thresholds[stage]
            if threshold is None:
                continue
            final = stage == self.bundle.final
            best = np.ones_like(confidences) if final else confidences
            rows = np.repeat(((1 - best) / (count - 1))[:, None], count, axis=1)
            rows[np.arange(len(x)), (numbers.astype(int) + final) % count] = best
            exits[stage] = rows.astype(np.float32)
            if stop and float(exits[stage].max(axis=1).min()) >= threshold:
                stopped = stage
                break
        features = np.zeros((len(x), *self.bundle.stages[last].output_shape), np.float32)
        features[:, 0, 0, 0], features[:, 0, 0, 1] = numbers, confidences
        return EngineResult(features if stopped is None else None, exits, exits, {}, stopped, {})

    def encode(self, features: Array, split: int) -> Array:
        return features

    def decode(self, coded: Array, split: int) -> Array:
        return coded


@dataclass
class Faults:
    """Chances of what a link does to one message, and its delay in s."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    truncate: float = 0.0
    corrupt: float = 0.0
    delay: float = 0.002
    jitter: float = 0.0
    cut: bool = False


@dataclass
class Setup:
    """One run: ``period`` between images and ``work`` per image in s; times of kills and starts."""

    seed: int = 0
    frames: int = 200
    period: float = 1 / 30
    work: float = 0.005
    deadline: float = 0.1
    audit: float = 0.0
    confident: float = 0.3
    up: Faults = field(default_factory=Faults)
    down: Faults = field(default_factory=Faults)
    tail_work: float = 0.004
    starts: tuple[float, ...] = (0.0,)
    kills: tuple[float, ...] = ()
    max_in_flight: int = 64
    faulty_head: frozenset[int] = frozenset()
    faulty_tail: frozenset[int] = frozenset()


class StaticPolicy:
    """One plan for all, and a record of what it was taught."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.observed: list[Decision] = []
        self.taught: list[tuple[int, bool]] = []

    def choose(self, scene: Scene, link: object) -> Plan:
        return self.plan

    def observe(self, decision: Decision) -> None:
        self.observed.append(decision)

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        self.taught.append((sequence, late))


class Simulation:
    """Runs one setup; afterwards its lists tell what happened, and when."""

    def __init__(self, bundle: Bundle, setup: Setup, codec: str = 'none') -> None:
        self.setup = setup
        self.bundle = bundle
        self.now = 0.0
        self.random = np.random.default_rng(setup.seed)
        self.engine = FakeEngine(bundle, setup.faulty_head)
        thresholds: tuple[float | None, ...] = (0.9, 0.9, None)
        self.policy = StaticPolicy(Plan(1, thresholds, codec, setup.audit))
        self.head = Head(
            bundle,
            self.policy,
            deadline=setup.deadline,
            session=77,
            seed=setup.seed,
            max_in_flight=setup.max_in_flight,
        )
        self.received = self.dropped = 0
        self.decisions: list[tuple[float, Decision]] = []
        self.accepted: list[int] = []
        self.arrivals: dict[int, float] = {}
        self.sent: list[tuple[float, bytes]] = []
        self.states: list[tuple[float, TailState]] = [(0.0, TailState.UNKNOWN)]
        self.greeted: list[float] = []
        self.refusals: list[str] = []
        self.most_in_flight = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ticks: set[float] = set()
        self._mail: tuple[int, float] | None = None
        self._busy = False
        self._tail: Tail | None = None
        self._tail_busy = False
        self._session = 0
        for number in range(setup.frames):
            self._at(number * setup.period, partial(self._image, number))
        for moment in setup.starts:
            self._at(moment, self._start_tail)
        for moment in setup.kills:
            self._at(moment, self._kill_tail)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Let something else happen at a moment."""
        self._at(moment, action)

    def run(self, until: float = float('inf')) -> Simulation:
        """Process events until all frames are decided (heartbeats alone go on for ever)."""
        end = self.setup.frames * self.setup.period + 2 * self.setup.deadline + 1.0
        while self._events and self._events[0][0] <= min(until, end):
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._follow()
        return self

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), action))

    def _follow(self) -> None:
        """After every event: note the state, and be there when the next deadline passes."""
        self.most_in_flight = max(self.most_in_flight, len(self.head.tracker))
        state = self.head.tracker.state
        if state is not self.states[-1][1]:
            self.states.append((self.now, state))
        due = self.head.next_deadline()
        if due is not None and due not in self._ticks:
            self._ticks.add(due)
            self._at(max(due, self.now), lambda: self._tick(due))

    def _tick(self, scheduled: float) -> None:
        self._ticks.discard(scheduled)
        due = self.head.next_deadline()
        # Otherwise this one was overtaken by an answer.
        if due is not None and due <= self.now:
            self._emit(self.head.tick(self.now))
            due = self.head.next_deadline()
            assert due is None or due > self.now, 'a tick leaves nothing that is due'

    def _image(self, number: int) -> None:
        self.received += 1
        self.dropped += self._mail is not None
        self._mail = (number, self.now)
        self._next_image()

    def _next_image(self) -> None:
        if self._busy or self._mail is None:
            return
        (number, arrived), self._mail = self._mail, None
        self._busy = True
        self.accepted.append(number)
        self.arrivals[number] = arrived
        ticket = self.head.begin(0, number, Scene(), arrived, self.now)
        confidence = 0.95 if self.random.random() < self.setup.confident else 0.5
        result: Computed | None = None
        with suppress(EngineError):
            result = compute(self.engine, ticket, self.engine.image(number, confidence))

        def done() -> None:
            self._busy = False
            if result is None:
                self.head.failed(ticket.sequence)
            else:
                self._emit(self.head.computed(ticket.sequence, result, self.now))
            self._next_image()

        self._at(self.now + self.setup.work * self.random.uniform(0.5, 1.5), done)

    def _emit(self, step: Step) -> None:
        self.decisions += [(self.now, decision) for decision in step.decisions]
        if step.frame is not None:
            self.sent.append((self.now, step.frame))
            self._transmit(step.frame, self.setup.up, self._at_tail)
        self.head.teach()

    def _transmit(self, data: bytes, faults: Faults, deliver: Callable[[bytes], None]) -> None:
        if faults.cut or self.random.random() < faults.drop:
            return
        copies = 2 if self.random.random() < faults.duplicate else 1
        for _ in range(copies):
            delay = faults.delay + faults.jitter * self.random.random()
            if self.random.random() < faults.reorder:
                delay += 3 * self.setup.period
            arriving = bytearray(data)
            if self.random.random() < faults.truncate:
                arriving = arriving[: self.random.integers(len(data))]
            if arriving and self.random.random() < faults.corrupt:
                arriving[self.random.integers(len(arriving))] ^= 1 << int(self.random.integers(8))
            self._at(self.now + delay, partial(deliver, bytes(arriving)))

    def _start_tail(self) -> None:
        self._session += 1
        engine = FakeEngine(self.bundle, self.setup.faulty_tail)
        self._tail = Tail(engine, queue=8, max_batch=4)
        self._tail_busy = False
        self._announce(self._tail)

    def _kill_tail(self) -> None:
        self._tail = None

    def _announce(self, tail: Tail) -> None:
        if tail is not self._tail:
            return
        status = Announcement('tail', self._session, (self.bundle.fingerprint.hex(),))
        self._at(self.now + self.setup.down.delay, lambda: self._greet(status))
        self._at(self.now + HEARTBEAT, lambda: self._announce(tail))

    def _greet(self, status: Announcement) -> None:
        # Status is reliable and small: it is late on a bad link, and lost only on none.
        if not self.setup.down.cut:
            self.greeted.append(self.now)
            self.head.announced(status, self.now)

    def _at_tail(self, data: bytes) -> None:
        if self._tail is None:
            return
        answer = self._tail.submit(0, None, data, self.now)
        if answer is None:
            self._next_batch(self._tail)
        else:
            self.refusals.append(answer.error)
            self._transmit(answer.reply.to_bytes(), self.setup.down, self._at_head)

    def _next_batch(self, tail: Tail) -> None:
        if self._tail_busy or tail is not self._tail or not len(tail):
            return
        self._tail_busy = True
        answers = tail.process(lambda: self.now)

        def done() -> None:
            if tail is not self._tail:
                return
            self._tail_busy = False
            for answer in answers:
                self._transmit(answer.reply.to_bytes(), self.setup.down, self._at_head)
            self._next_batch(tail)

        self._at(self.now + self.setup.tail_work, done)

    def _at_head(self, data: bytes) -> None:
        try:
            reply = ReplyFrame.parse(data)
        except FrameError as error:
            self.refusals.append(str(error))
            return
        self._emit(self.head.answer(reply, self.now))

    def by_route(self, route: Route) -> list[tuple[float, Decision]]:
        """The decisions of one route, with their moments."""
        return [item for item in self.decisions if item[1].route is route]

    def check(self) -> None:
        """What holds whatever the link and the tail did."""
        assert self.received == self.setup.frames
        assert self.received == len(self.accepted) + self.dropped
        counts = self.head.counts
        failed = [number for number in self.accepted if number in self.setup.faulty_head]
        assert (counts.accepted, counts.failed) == (len(self.accepted), len(failed))
        decided = sorted(decision.header for _, decision in self.decisions)
        assert decided == sorted(set(self.accepted) - set(failed)), 'exactly one decision each'
        decided = [replace(decision, header=None) for _, decision in self.decisions]
        assert decided == self.policy.observed
        assert len(self.head.tracker) == 0
        classes = len(self.bundle.classes)
        for moment, decision in self.decisions:
            number = decision.header
            due = self.arrivals[number] + self.setup.deadline
            answered = decision.route is Route.OFFBOARD
            assert decision.label == (number + answered) % classes, 'the answer to this very frame'
            if answered:
                assert moment <= due
            elif decision.reason.value == 'deadline missed':
                assert moment == due, 'a missed deadline is decided when it passes'
            assert decision.times.total == (moment - self.arrivals[number]) * 1e3
