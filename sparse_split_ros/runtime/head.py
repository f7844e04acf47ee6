# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The robot's side as a plain state machine: it runs no network, owns no thread, reads no clock.

The node, the offline evaluator and the tests drive the same object, and run the network between
its events with :func:`compute`. Times are steady seconds. Every accepted frame leaves in exactly
one decision (or is counted as failed when its computation was). A policy that raises costs no
frame: it is not told of that event, or the frame gets the bundle's own plan. Learning takes time
that an answer must not wait for: publish first, then :meth:`Head.teach`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.codec import Codec, CodecError, codec_id
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import FeatureFrame, Flag, FrameError, ReplyFrame, Status
from sparse_split_ros.link.tracker import Arrival, InFlight, Tracker
from sparse_split_ros.policy.decision import Decision, ExitAnswer, Reason, Route, Times
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.plan import AUDIT_CODEC, FixedPolicy, Plan, Policy
from sparse_split_ros.policy.scene import Scene

if TYPE_CHECKING:
    from sparse_split_ros.runtime.bundle import Bundle
    from sparse_split_ros.runtime.engine import Engine

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ticket:
    """What to compute for one accepted frame.

    ``complete`` means to the split, however sure an earlier exit is: the features will travel.
    ``reachable`` tells whether features can be sent at all.
    """

    sequence: int
    plan: Plan
    complete: bool
    reachable: bool


@dataclass(frozen=True)
class Step:
    """What follows from an event: decisions that became final, and bytes to send to the tail."""

    decisions: tuple[Decision, ...] = ()
    frame: bytes | None = None


@dataclass(frozen=True)
class Computed:
    """What the network said on the robot.

    ``probabilities`` of shape (K,), float32, per evaluated exit; ``stopped`` is the exit that was
    sure enough; ``features`` is what would travel, (1, C, H, W), None when not computed.
    ``stage_ms`` and ``exit_ms`` are what each stage and exit took.
    """

    probabilities: Mapping[int, Array]
    stopped: int | None
    features: Array | None
    prepare_ms: float = 0.0
    compute_ms: float = 0.0
    stage_ms: Mapping[int, float] = field(default_factory=dict)
    exit_ms: Mapping[int, float] = field(default_factory=dict)


def compute(engine: Engine, ticket: Ticket, x: Array, prepare_ms: float = 0.0) -> Computed:
    """Run the robot's part of the network on one prepared image of shape (1, 3, H, W), float32.

    Raises EngineError.
    """
    plan = ticket.plan
    start = time.perf_counter()
    result = engine.run(x, 0, plan.split, plan.thresholds, stop=not ticket.complete)
    probabilities = {stage: rows[0] for stage, rows in result.exits.items()}
    sure = (
        stage for stage, scores in probabilities.items()
        if float(engine.bundle.judge(scores)[1]) >= (plan.thresholds[stage] or 0.0)
    )  # fmt: skip
    stopped = next(sure, None)
    features = None
    if result.features is not None and ticket.reachable and plan.split < engine.bundle.final:
        features = engine.encode(result.features, plan.split)
    compute_ms = (time.perf_counter() - start) * 1e3
    return Computed(
        probabilities, stopped, features, prepare_ms, compute_ms, result.stage_ms, result.exit_ms
    )


def slowed(computed: Computed, factor: float) -> Computed:
    """The same on a robot that computes ``factor`` times slower; its times are simulated."""
    return replace(
        computed,
        compute_ms=factor * computed.compute_ms,
        stage_ms={stage: factor * ms for stage, ms in computed.stage_ms.items()},
        exit_ms={stage: factor * ms for stage, ms in computed.exit_ms.items()},
    )


@dataclass
class Counts:
    """What happened since start."""

    accepted: int = 0
    failed: int = 0
    routes: dict[Route, int] = field(default_factory=lambda: dict.fromkeys(Route, 0))
    sent: int = 0
    sent_bytes: int = 0
    replies: dict[Arrival, int] = field(default_factory=lambda: dict.fromkeys(Arrival, 0))
    refused: int = 0
    unsendable: int = 0
    policy_faults: int = 0


@dataclass
class _Accepted:
    """A frame between :meth:`Head.begin` and its decision."""

    source: int
    header: Any
    scene: Scene
    plan: Plan
    arrived: float
    accepted: float
    audit: bool
    probe: bool
    computed: Computed | None = None
    size: int = 0
    sent: float = 0.0


class Head:
    """Decides each frame's route.

    ``deadline`` is in seconds from a frame's arrival, ``session`` names this start on the wire, and
    ``max_in_flight`` bounds what waits for the tail. ``complain`` is told what went wrong: a kind,
    such as the event in which a policy raised, and words. Not safe for threads: the owner holds a
    lock.
    """

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        *,
        deadline: float,
        session: int,
        seed: int = 0,
        max_in_flight: int = 64,
        complain: Callable[[str, str], None] = lambda kind, text: None,
    ) -> None:
        self.policy = policy
        self.deadline = deadline
        self.counts = Counts()
        self.tracker = Tracker(bundle.fingerprint, session)
        self._bundle = bundle
        self._max_in_flight = max_in_flight
        self._complain = complain
        self._random = np.random.default_rng(seed)
        self._sequence = 0
        self._waiting: dict[int, _Accepted] = {}
        # Decisions the policy has not observed yet.
        self._untaught: list[Decision] = []
        self._codecs: dict[tuple[int, str], Codec] = {}

    def begin(self, source: int, header: Any, scene: Scene, arrived: float, now: float) -> Ticket:
        """Accept a frame that arrived at ``arrived`` from camera ``source``; the plan for it."""
        plan = self._chosen(scene)
        up = self.tracker.state is TailState.UP
        final = plan.split == self._bundle.final
        # Where the robot computes everything, its own last exit is what an audit asks.
        audit = (up or final) and self._random.random() < plan.audit_probability
        probe = not final and self.tracker.probe_due(now)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self.counts.accepted += 1
        self._waiting[self._sequence] = _Accepted(
            source, header, scene, plan, arrived, now, audit, probe
        )
        return Ticket(self._sequence, plan, audit or probe, up or probe)

    def _chosen(self, scene: Scene) -> Plan:
        """The policy's plan; the bundle's own split, threshold and codec when it has none."""
        self.teach()
        try:
            return self.policy.choose(scene, self.tracker.link())
        except Exception as error:
            self._fault('choose', error)
            return _safe_plan(self._bundle)

    def teach(self) -> None:
        """Let the policy observe the decisions made since the last call; best once published.

        Whoever does not call it loses nothing: the policy is asked and told of replies only after
        it has observed all decisions before.
        """
        decisions, self._untaught = self._untaught, []
        for decision in decisions:
            try:
                self.policy.observe(decision)
            except Exception as error:
                # The answer stands, and others may have become final with it.
                self._fault('observe', error)

    def diagnosed(self) -> dict[str, object]:
        """What the policy has to say of itself; nothing when it fails at that."""
        try:
            return self.policy.diagnostics()
        except Exception as error:
            self._fault('diagnostics', error)
            return {}

    def _fault(self, event: str, error: Exception) -> None:
        self.counts.policy_faults += 1
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f'{Path(frame.f_code.co_filename).name}:{line}'
        # A kind for each event, so that one that fails on every frame does not hide another.
        self._complain(f'policy {event}', f'{type(error).__name__}: {error} ({place})')

    def failed(self, sequence: int) -> None:
        """The network failed on a frame: it is given up and counted."""
        if self._waiting.pop(sequence, None) is not None:
            self.counts.failed += 1

    def computed(self, sequence: int, computed: Computed, now: float) -> Step:
        """The robot's part of a frame is computed: answer, or ask the tail."""
        frame = self._waiting.get(sequence)
        if frame is None:
            return Step()  # given up by stop
        frame.computed = computed
        if computed.stopped is not None or frame.plan.split == self._bundle.final:
            route, reason = Route.LOCAL, Reason.CONFIDENT
        else:
            objection = self._objection(frame, now)
            if objection is None:
                data = self._send(sequence, frame, Flag.NONE, now)
                if data is not None:
                    return Step((), data)
                objection = Reason.UNSENDABLE
            route, reason = Route.FALLBACK, objection
        data = None
        if frame.audit and route is Route.LOCAL:
            data = self._send(sequence, frame, Flag.AUDIT, now)
        elif frame.probe and self.tracker.probe_due(now):
            data = self._send(sequence, frame, Flag.PROBE, now)
        return Step((self._decide(sequence, route, reason, now),), data)

    def _objection(self, frame: _Accepted, now: float) -> Reason | None:
        """Why asking the tail makes no sense now; None when it does."""
        absent = {
            TailState.UNKNOWN: Reason.TAIL_UNKNOWN,
            TailState.DOWN: Reason.TAIL_DOWN,
            TailState.FOREIGN: Reason.TAIL_FOREIGN,
        }
        if self.tracker.state in absent:
            return absent[self.tracker.state]
        if frame.computed is None or frame.computed.features is None:
            return Reason.TAIL_DOWN  # the tail came back while the frame was computed
        if frame.arrived + self.deadline <= now:
            return Reason.NO_TIME
        if len(self.tracker) >= self._max_in_flight:
            return Reason.FULL
        return None

    def _send(self, sequence: int, frame: _Accepted, flag: Flag, now: float) -> bytes | None:
        """Code a frame's features and enter them as in flight; None where that cannot be.

        Audits have full time. A probe has what a frame in doubt would have: a link that is too slow
        for those is not to be asked again.
        """
        computed = frame.computed
        deadline = self.deadline + (now if flag is Flag.AUDIT else frame.arrived)
        full = len(self.tracker) >= self._max_in_flight
        if full or deadline <= now or computed is None or computed.features is None:
            return None
        try:
            codec = self._codec(frame.plan, flag)
            data = FeatureFrame(
                split=frame.plan.split,
                codec=codec.id,
                fingerprint=self._bundle.fingerprint,
                session=self.tracker.session,
                sequence=sequence,
                payload=codec.encode(computed.features),
                source=frame.source,
                flags=flag,
                budget_ms=int((deadline - now) * 1e3),
                age_ms=int((now - frame.arrived) * 1e3),
            ).to_bytes()
        except (CodecError, FrameError) as error:
            # What the robot found stands.
            self.counts.unsendable += 1
            self._complain('features not sent', str(error))
            return None
        frame.size, frame.sent = len(data), now
        self.tracker.sent(InFlight(sequence, len(data), now, deadline, flag))
        self.counts.sent += 1
        self.counts.sent_bytes += len(data)
        return data

    def _codec(self, plan: Plan, flag: Flag) -> Codec:
        split = self._bundle.split_at(plan.split)
        name = AUDIT_CODEC if flag is Flag.AUDIT and AUDIT_CODEC in split.codecs else plan.codec
        key = (plan.split, name)
        if key not in self._codecs:
            codec_id(name)
            self._codecs[key] = Codec.from_calibration(name, split.shape, split.codecs[name])
        return self._codecs[key]

    def announced(self, announcement: Announcement, now: float) -> None:
        """A tail's status message came."""
        self.tracker.announced(announcement, now)

    def answer(self, reply: ReplyFrame, now: float) -> Step:
        """A reply came; it decides a frame that waits for it, and otherwise at most teaches."""
        if reply.fingerprint != self._bundle.fingerprint:
            # Not from the tail that was asked, which may still answer.
            self.counts.refused += 1
            if reply.session == self.tracker.session:
                self.tracker.refused(
                    f'a tail with bundle {reply.fingerprint.hex()} answers this head, which runs '
                    f'{self._bundle.fingerprint.hex()}: start both with the same bundle', now,
                )  # fmt: skip
            return Step()
        passed = self.tick(now)
        arrival, flight = self.tracker.replied(reply, now)
        self.counts.replies[arrival] += 1
        if flight is None:
            return passed
        usable = reply.status is Status.OK and reply.scores.size == len(self._bundle.classes)
        self.counts.refused += not usable
        if arrival is Arrival.LATE or flight.flags is not Flag.NONE:
            if usable:
                self.teach()
                try:
                    self.policy.observe_reply(reply.sequence, reply, arrival is Arrival.LATE)
                except Exception as error:
                    self._fault('observe_reply', error)
            return passed
        if usable:
            decision = self._decide(
                reply.sequence,
                Route.OFFBOARD,
                Reason.ANSWERED,
                now,
                reply.scores,
                reply.tail_us / 1e3,
            )
        else:
            decision = self._decide(reply.sequence, Route.FALLBACK, Reason.TAIL_REFUSED, now)
        return Step((*passed.decisions, decision))

    def tick(self, now: float) -> Step:
        """Let deadlines pass that have passed."""
        return Step(
            tuple(
                self._decide(flight.sequence, Route.FALLBACK, Reason.DEADLINE, now)
                for flight in self.tracker.tick(now)
                if flight.flags is Flag.NONE
            )
        )

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due next, in steady seconds; None when nothing waits."""
        return self.tracker.next_deadline()

    def stop(self, now: float) -> Step:
        """Answer all that waits for the tail from the robot: there will be no more time.

        A frame whose network still runs has no answer and counts as failed.
        """
        self.tracker.abandon()
        for key in [key for key, frame in self._waiting.items() if frame.computed is None]:
            self.failed(key)
        waiting = list(self._waiting)
        return Step(
            tuple(self._decide(key, Route.FALLBACK, Reason.SHUTDOWN, now) for key in waiting)
        )

    def _decide(
        self,
        sequence: int,
        route: Route,
        reason: Reason,
        now: float,
        scores: Array | None = None,
        tail_ms: float = 0.0,
    ) -> Decision:
        frame = self._waiting.pop(sequence)
        computed = frame.computed
        assert computed is not None, 'only computed frames are decided'
        local = max(computed.probabilities) if computed.stopped is None else computed.stopped
        exit_ = self._bundle.final if scores is not None else local
        scores = computed.probabilities[local] if scores is None else scores
        times = Times(
            queue=(frame.accepted - frame.arrived) * 1e3 - computed.prepare_ms,
            prepare=computed.prepare_ms,
            compute=computed.compute_ms,
            offboard=(now - frame.sent) * 1e3 if frame.sent else 0.0,
            tail=tail_ms,
            total=(now - frame.arrived) * 1e3,
        )
        decision = Decision(
            sequence=sequence,
            source=frame.source,
            header=frame.header,
            route=route,
            reason=reason,
            exit=exit_,
            scores=scores,
            confidence=float(self._bundle.judge(scores)[1]),
            threshold=frame.plan.thresholds[local] or 0.0,
            plan=frame.plan,
            scene=frame.scene,
            payload_bytes=frame.size,
            audit=frame.audit,
            times=times,
            exits=tuple(
                ExitAnswer(stage, int(label), float(confidence))
                for stage, said in sorted(computed.probabilities.items())
                for label, confidence in [self._bundle.judge(said)]
            ),
            stage_ms=computed.stage_ms,
            exit_ms=computed.exit_ms,
            sizes=self._bundle.sizes,
        )
        self.counts.routes[route] += 1
        # A policy may keep it until a late answer comes, and an image with it.
        self._untaught.append(replace(decision, header=None))
        return decision


def _safe_plan(bundle: Bundle) -> Plan:
    """What the bundle itself says; its last split, or all local, where it says what cannot be."""
    facts, default = Facts.of(bundle), bundle.defaults
    split = default.split
    if split not in facts.splits:
        split = (facts.splits or (facts.final,))[-1]
    codecs = list(facts.codings.get(split, ('',)))
    return FixedPolicy.of(
        stages=len(facts.macs), exits=facts.stages, split=split, threshold=default.threshold,
        codec=default.codec if default.codec in codecs else codecs[0],
    ).plan  # fmt: skip
