# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A stream of frames through head, link and tail in virtual time.

The state machines are the run-time's own; around them an event queue stands for the clock, the
camera, the worker with its mailbox of one, the link and the tail's machine.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from sparse_split_ros.evaluation.engines import HeadEngine, TailEngine
from sparse_split_ros.evaluation.link_model import LinkModel, TraceModel
from sparse_split_ros.evaluation.metrics import Counts, Outcome
from sparse_split_ros.evaluation.robot import StepTimes
from sparse_split_ros.evaluation.stream import View
from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.codec import CodecError
from sparse_split_ros.link.frame import ReplyFrame
from sparse_split_ros.policy.cost import CostModel
from sparse_split_ros.policy.decision import Decision, Route
from sparse_split_ros.policy.plan import Policy
from sparse_split_ros.policy.scene import SceneMeter
from sparse_split_ros.runtime.engine import Engine, EngineError
from sparse_split_ros.runtime.head import Computed, Head, Step, Ticket, compute
from sparse_split_ros.runtime.tail import Tail

HEARTBEAT_S = 0.5
# The tail is there before the first frame; three heartbeats are heard, if the link lets them pass.
_BEFORE_S = 1.2
_STATUS_BYTES = 120
_SESSION = 1

Link = LinkModel | TraceModel
# Runs the robot's part of the network; see runtime.head.compute.
Compute = Callable[[Engine, Ticket, Any, float], Computed]


class Foresight(Protocol):
    """A policy that may look at a frame before it plans: only an oracle does."""

    def look(self, engine: HeadEngine) -> None:
        """``engine.view`` is the frame that will be planned next."""


def arrival(view: View) -> float:
    """When a view reaches the robot, on the clock of a replay."""
    return _BEFORE_S + view.time


@dataclass(frozen=True)
class World:
    """What all replays of one stream share.

    ``robot`` and ``offboard`` are the times of the two machines, ``costs`` charges what a frame
    cost, ``deadline`` is in s.
    """

    engine: Engine
    robot: StepTimes
    offboard: StepTimes
    costs: CostModel
    deadline: float
    seed: int = 0


class Replay(ABC):
    """One way to answer a stream of frames. Feed it views in order, then finish.

    ``ready`` holds what became of frames, in their order, until it is taken.
    """

    def __init__(self, world: World, link: Link) -> None:
        self.received = self.accepted = self.dropped = self.rejected = self.failed = 0
        # Why the first frame that failed did.
        self.trouble = ''
        self.now = 0.0
        self._world = world
        self._link = link
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._mail: View | None = None
        self._busy = False
        self._closing = False
        self._outcomes: dict[int, Outcome] = {}
        self._next = 0

    def feed(self, view: View) -> None:
        """The camera takes the next picture; the mailbox keeps the latest."""
        self._pass(arrival(view))
        self.now = arrival(view)
        self.received += 1
        if view.rejected:
            self.rejected += 1
            self._close(self._known(view))
            return
        if self._mail is not None:
            self.dropped += 1
            self._close(self._known(self._mail))
        self._mail = view
        self._work()

    def finish(self) -> None:
        """No more pictures: let everything come to its end."""
        self._closing = True
        self._pass(math.inf)

    def take(self) -> list[Outcome]:
        """What became of the frames since the last call, in the order of the frames."""
        ready = []
        while self._next in self._outcomes:
            ready.append(self._outcomes.pop(self._next))
            self._next += 1
        return ready

    def counts(self) -> Counts:
        """What the robot counted."""
        return Counts(self.received, self.accepted, self.dropped, self.rejected, self.failed)

    def troubles(self) -> list[str]:
        """What went wrong on the way, in words."""
        return [f'{self.failed} frames failed, first: {self.trouble}'] if self.failed else []

    def prepare(self, views: list[View]) -> None:
        """These frames will be fed next: what is cheaper in a batch can be computed now."""
        return

    @abstractmethod
    def _take_up(self, view: View) -> None:
        """The worker takes a frame; in the end :meth:`_idle` is to be called."""

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (moment, self._order, action))

    def _pass(self, moment: float) -> None:
        """Let everything happen that is due by then."""
        while self._events and self._events[0][0] <= moment:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._happened()

    def _happened(self) -> None:
        """An event has been dealt with."""
        return

    def _work(self) -> None:
        if not self._busy and self._mail is not None:
            view, self._mail = self._mail, None
            self._busy = True
            self._take_up(view)

    def _idle(self) -> None:
        self._busy = False
        self._work()

    @staticmethod
    def _known(view: View) -> Outcome:
        """What is known of a frame without an answer."""
        return Outcome(view.index, view.time, view.time, view.label, view.scene, file=view.file)

    def _close(self, outcome: Outcome) -> None:
        """The last word on a frame."""
        self._outcomes[outcome.index] = outcome

    def _charge(self, latency_ms: float, sent: int, joules: float, *, missed: bool) -> float:
        return self._world.costs.charge(latency_ms, sent, joules, missed=missed)


class HeadReplay(Replay):
    """The very same head and tail that the nodes run, with any policy.

    ``step`` runs the network between the head's events, as the head's own ``compute`` does.
    """

    def __init__(
        self,
        world: World,
        link: Link,
        policy: Policy,
        *,
        foresight: Foresight | None = None,
        step: Compute = compute,
    ) -> None:
        super().__init__(world, link)
        bundle = world.engine.bundle
        self.head = Head(
            bundle, policy, deadline=world.deadline, session=_SESSION, seed=world.seed,
            complain=self._complained,
        )  # fmt: skip
        # What went wrong first: what a policy raised, and why features were not sent.
        self._complaints: dict[str, str] = {}
        self._named = bundle.named
        self._engine = HeadEngine(world.engine, world.robot)
        self._tail_engine = TailEngine(world.engine, world.offboard)
        self._tail = Tail(self._tail_engine)
        self._tail_busy = False
        self._meter = SceneMeter()
        self._foresight = foresight
        self._compute = step
        self._macs: dict[int, int] = {}
        self._announcement = Announcement('replayed', _SESSION, (bundle.fingerprint.hex(),))
        self._ticks: set[float] = set()
        self._at(0.0, self._announce)

    def troubles(self) -> list[str]:
        """What went wrong on the way; a policy that raises is no fair contestant."""
        found = super().troubles()
        if faults := self.head.counts.policy_faults:
            found.append(
                f"the policy raised {faults} times, and was passed over for the bundle's own split "
                f'and threshold; first {self._complaints["policy"]}'
            )
        if unsendable := self.head.counts.unsendable:
            found.append(
                f'{unsendable} frames could not be sent; first {self._complaints["features"]}'
            )
        return found

    def _complained(self, kind: str, text: str) -> None:
        self._complaints.setdefault(kind.split(maxsplit=1)[0], f'{kind}: {text}')

    def _happened(self) -> None:
        """Be there when the head's next deadline passes."""
        due = self.head.next_deadline()
        if due is not None and due not in self._ticks:
            self._ticks.add(due)
            self._at(max(due, self.now), partial(self._tick, due))

    def _tick(self, scheduled: float) -> None:
        self._ticks.discard(scheduled)
        due = self.head.next_deadline()
        if due is not None and due <= self.now:
            self._follow(self.head.tick(self.now))

    def _announce(self) -> None:
        if self._closing:
            return
        heard = self._link.send(_STATUS_BYTES, self.now, back=True)
        if heard is not None:
            self._at(heard, self._greet)
        self._at(self.now + HEARTBEAT_S, self._announce)

    def _greet(self) -> None:
        self.head.announced(self._announcement, self.now)

    def _take_up(self, view: View) -> None:
        prepare_ms = self._world.robot.prepare
        self._at(self.now + prepare_ms / 1e3, partial(self._begin, view))

    def _begin(self, view: View) -> None:
        scene = self._meter(view.shown)
        engine = self._engine
        engine.view = view
        if self._foresight is not None:
            self._foresight.look(engine)
        ticket = self.head.begin(0, view, scene, arrival(view), self.now)
        self.accepted += 1
        engine.reset()
        try:
            computed = self._compute(engine, ticket, view.x, self._world.robot.prepare)
        except EngineError as error:
            self._fail(ticket, view, error)
            return
        computed = replace(computed, compute_ms=engine.spent_ms)
        self._macs[ticket.sequence] = engine.macs
        done = partial(self._computed, ticket, view, computed)
        self._at(self.now + engine.spent_ms / 1e3, done)

    def _computed(self, ticket: Ticket, view: View, computed: Computed) -> None:
        try:
            step = self.head.computed(ticket.sequence, computed, self.now)
        except CodecError as error:
            self._fail(ticket, view, error)
            return
        self._follow(step)
        self._idle()

    def _fail(self, ticket: Ticket, view: View, error: Exception) -> None:
        self.trouble = self.trouble or str(error)
        self.head.failed(ticket.sequence)
        self._macs.pop(ticket.sequence, None)
        self.failed += 1
        self._close(self._known(view))
        self._idle()

    def _follow(self, step: Step) -> None:
        for decision in step.decisions:
            self._decided(decision)
        if step.frame is not None:
            arrives = self._link.send(len(step.frame), self.now)
            if arrives is not None:
                self._at(arrives, partial(self._at_tail, step.frame))
        self.head.teach()

    def _at_tail(self, data: bytes) -> None:
        answer = self._tail.submit(0, None, data, self.now)
        if answer is None:
            self._serve()
        else:
            self._reply(answer.reply.to_bytes())

    def _serve(self) -> None:
        if self._tail_busy or not len(self._tail):
            return
        self._tail_busy = True
        self._tail_engine.spent_ms = 0.0
        # Only the network takes time, so the tail's clock is what its engine spent.
        answers = self._tail.process(lambda: self.now + self._tail_engine.spent_ms / 1e3)
        replies = [answer.reply.to_bytes() for answer in answers]
        self._at(self.now + self._tail_engine.spent_ms / 1e3, partial(self._served, replies))

    def _served(self, replies: list[bytes]) -> None:
        self._tail_busy = False
        for data in replies:
            self._reply(data)
        self._serve()

    def _reply(self, data: bytes) -> None:
        arrives = self._link.send(len(data), self.now, back=True)
        if arrives is not None:
            self._at(arrives, partial(self._answered, data))

    def _answered(self, data: bytes) -> None:
        self._follow(self.head.answer(ReplyFrame.parse(data), self.now))

    def _decided(self, decision: Decision) -> None:
        view: View = decision.header
        times, route = decision.times, decision.route
        missed = route is Route.FALLBACK or times.total > 1e3 * self._world.deadline
        joules = self._world.costs.joules(
            times.compute, decision.stage_ms, decision.exit_ms,
            decision.plan.split if decision.payload_bytes else None,
        )  # fmt: skip
        cost = self._charge(times.total, decision.payload_bytes, joules, missed=missed)
        self._close(
            replace(
                self._known(view),
                answer=self._named(decision.label),
                route=route,
                reason=decision.reason,
                exit=decision.exit,
                split=decision.plan.split,
                confidence=decision.confidence,
                measured_scene=decision.scene.name,
                payload_bytes=decision.payload_bytes,
                latency=times.total,
                end_to_end=times.total,
                compute=times.compute,
                offboard=times.offboard,
                tail=times.tail,
                queue=times.queue,
                prepare=times.prepare,
                codec=decision.plan.codec,
                threshold=decision.threshold,
                audit=decision.audit and decision.payload_bytes > 0,
                full=self._named(view.full),
                macs=self._macs.pop(decision.sequence),
                cost=cost,
                tail_state=self.head.tracker.state.value,
                rtt=self.head.tracker.link().rtt_ms,
            )
        )
