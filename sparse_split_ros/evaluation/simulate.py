# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Any policy on a confidence table, a link model and a robot profile, in virtual time.

The link is seen through the head's own tracker and estimator. Frames are a period apart; a robot
that computes for longer than that takes the next frame when it is done. Stage times are the cost
model's with a little jitter, so every figure is simulated.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.evaluation.link_model import PRESETS, LinkModel, LinkSpec, TraceModel
from sparse_split_ros.evaluation.table import ConfidenceTable
from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import Link, TailState
from sparse_split_ros.link.frame import PREAMBLE_BYTES, VERSION, Flag, ReplyFrame, Status
from sparse_split_ros.link.tracker import Arrival, InFlight, Tracker
from sparse_split_ros.policy.cost import CostModel
from sparse_split_ros.policy.decision import Decision, ExitAnswer, Reason, Route, Times
from sparse_split_ros.policy.facts import NEVER, Facts
from sparse_split_ros.policy.plan import AUDIT_CODEC, Plan, Policy
from sparse_split_ros.policy.risk import Calibration, Sample
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.policy.tasks import judge, places

ROUTES = (Route.LOCAL, Route.OFFBOARD, Route.FALLBACK)
_HEARTBEAT_S = 0.5
_FINGERPRINT = b'\0' * 8

# Changes the label the tail answers; takes it, the number of labels and a source of chance.
Tail = Callable[[int, int, random.Random], int]


@dataclass(frozen=True)
class Segment:
    """Frames of a table, in order, over one kind of link or a recorded one."""

    table: ConfidenceTable
    link: LinkSpec | TraceModel = PRESETS['ethernet']
    tail: Tail | None = None


@dataclass(frozen=True)
class Run:
    """What became of N frames, one entry each.

    ``route`` indexes ROUTES; ``differs`` and ``correct`` compare the answer with the full network's
    and with the truth; ``cost`` in ms equivalents and ``latency`` in ms as charged by the true cost
    model; ``sent`` in bytes; ``audit`` whether it was sent only to learn; ``choose_us`` and
    ``observe_us`` what the policy took.
    """

    route: NDArray[np.int8]
    exit: NDArray[np.int16]
    split: NDArray[np.int16]
    scene: NDArray[np.int16]
    differs: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    audit: NDArray[np.bool_]
    cost: NDArray[np.float64]
    latency: NDArray[np.float64]
    sent: NDArray[np.float64]
    choose_us: NDArray[np.float64]
    observe_us: NDArray[np.float64]
    scenes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.route)

    @property
    def promised(self) -> NDArray[np.bool_]:
        """The answers the promise is about: LOCAL and OFFBOARD."""
        return self.route < 2

    def disagreement(self, scene: int | None = None) -> NDArray[np.float64]:
        """The cumulative share of promised answers that differ, after each frame (of a scene)."""
        chosen = self.promised if scene is None else self.promised & (self.scene == scene)
        counts = np.cumsum(chosen)
        share: NDArray[np.float64] = np.cumsum(self.differs & chosen) / np.maximum(counts, 1)
        return share

    def part(self, first: int, last: int) -> Run:
        """Frames ``first`` to ``last``, the latter excluded."""
        names = [item.name for item in fields(self) if item.name != 'scenes']
        return replace(self, **{name: getattr(self, name)[first:last] for name in names})

    def summary(self) -> dict[str, float]:
        """The figures of the run."""
        share = np.bincount(self.route, minlength=3) / len(self)
        promised = self.promised
        return {
            'frames': float(len(self)),
            'cost': float(self.cost.mean()),
            'accuracy': float(self.correct.mean()),
            'disagreement': float(self.differs[promised].mean()) if promised.any() else 0.0,
            'local': float(share[0]),
            'offboard': float(share[1]),
            'fallback': float(share[2]),
            'audits': float(self.audit.mean()),
            'latency_ms': float(self.latency.mean()),
            'bytes': float(self.sent.mean()),
        }


@dataclass
class _Frame:
    """A frame on its way through the simulation."""

    index: int
    plan: Plan
    scene: Scene
    exits: tuple[ExitAnswer, ...]
    stage_ms: dict[int, float]
    exit_ms: dict[int, float]
    begun: float
    computed: float
    compute_ms: float
    audit: bool = False
    size: int = 0


class Simulation:
    """Drives one policy; deterministic for a seed.

    ``truth`` are the robot's and the tail's real times, ``deadline_ms`` its deadline. ``coded``
    tells whether the tail answers what the table has for coded features.
    """

    def __init__(
        self,
        policy: Policy,
        facts: Facts,
        truth: CostModel,
        *,
        period_ms: float = 33.0,
        seed: int = 0,
        coded: bool = True,
        timed: bool = False,
    ) -> None:
        self.policy = policy
        self._facts = facts
        self._truth = truth
        self._deadline = truth.deadline_ms / 1e3
        self._period = period_ms / 1e3
        self._random = random.Random(seed)
        self._seed = seed
        self._coded = coded
        self._timed = timed
        self._tracker = Tracker(_FINGERPRINT, 1)
        self._announcement = Announcement('simulated', 1, (_FINGERPRINT.hex(),), VERSION)
        self._events: list[tuple[float, int, ReplyFrame]] = []
        self._waiting: dict[int, _Frame] = {}
        self._beat = 0.0
        self._zeros = np.zeros(facts.classes, np.float32)

    def run(self, segments: Sequence[Segment]) -> Run:
        """All segments one after the other, as one stream of frames."""
        self._columns(segments)
        now, index = 0.0, 0
        model: LinkModel | TraceModel | None = None
        for number, segment in enumerate(segments):
            if isinstance(segment.link, TraceModel):
                # Of its own, or what other runs drew from it would change this one.
                model = segment.link.seeded(1000 * self._seed + number)
            elif isinstance(model, LinkModel):
                model.change(segment.link, now)
            else:
                model = LinkModel(segment.link, self._seed)
            scenes = [Scene(name=name) for name in segment.table.scenes]
            confidence = segment.table.confidence.tolist()
            prediction = segment.table.prediction.tolist()
            coded = segment.table.coded.tolist()
            scene_of = segment.table.scene.tolist()
            self._stage_of, self._splits = segment.table.stages, segment.table.splits
            self._tail = segment.tail
            for row in range(len(segment.table)):
                self._pass(now, model)
                end = self._frame(
                    index, now, model, scenes[scene_of[row]], prediction[row],
                    confidence[row], coded[row],
                )  # fmt: skip
                self._scene[index] = scene_of[row]
                now = max(now + self._period, end)
                index += 1
        assert model is not None, 'at least one segment'
        self._pass(now + 10 * self._deadline, model)
        for frame in list(self._waiting.values()):
            self._decide(frame, Route.FALLBACK, Reason.SHUTDOWN, now)
        return self._result(segments)

    def _columns(self, segments: Sequence[Segment]) -> None:
        count = sum(len(segment.table) for segment in segments)
        self._route, self._exit = [0] * count, [0] * count
        self._split, self._answer = [0] * count, [0] * count
        self._scene = [0] * count
        self._cost, self._latency = [0.0] * count, [0.0] * count
        self._sent, self._audit = [0] * count, [False] * count
        self._choose_us, self._observe_us = [0.0] * count, [0.0] * count

    def _result(self, segments: Sequence[Segment]) -> Run:
        tables = [segment.table for segment in segments]
        answer = np.array(self._answer)
        full = np.concatenate([table.full for table in tables])
        label = np.concatenate([table.label for table in tables])
        return Run(
            np.array(self._route, np.int8), np.array(self._exit, np.int16),
            np.array(self._split, np.int16), np.array(self._scene, np.int16),
            answer != full, answer == label, np.array(self._audit), np.array(self._cost),
            np.array(self._latency), np.array(self._sent, float), np.array(self._choose_us),
            np.array(self._observe_us), tables[0].scenes,
        )  # fmt: skip

    def _pass(self, now: float, model: LinkModel | TraceModel) -> None:
        """Let everything happen that is due before ``now``."""
        while True:
            reply = self._events[0][0] if self._events else math.inf
            deadline = self._tracker.next_deadline()
            due = min(reply, math.inf if deadline is None else deadline, self._beat)
            if due > now:
                return
            if due == self._beat:
                self._beat += _HEARTBEAT_S
                if model.send(100, due, back=True) is not None:
                    self._tracker.announced(self._announcement, due)
            elif due == reply:
                self._reply(heapq.heappop(self._events)[2], due)
            else:
                for flight in self._tracker.tick(due):
                    if flight.flags is Flag.NONE:
                        frame = self._waiting.pop(flight.sequence)
                        self._decide(frame, Route.FALLBACK, Reason.DEADLINE, due)

    def _reply(self, reply: ReplyFrame, now: float) -> None:
        arrival, flight = self._tracker.replied(reply, now)
        if flight is None:
            return
        frame = self._waiting.pop(reply.sequence, None)
        if frame is None or arrival is Arrival.LATE:
            self.policy.observe_reply(reply.sequence, reply, arrival is Arrival.LATE)
        else:
            self._decide(frame, Route.OFFBOARD, Reason.ANSWERED, now, reply)

    def _frame(
        self,
        index: int,
        now: float,
        model: LinkModel | TraceModel,
        scene: Scene,
        prediction: list[int],
        confidence: list[float],
        coded: list[int],
    ) -> float:
        """One frame from arrival until it is computed; the time then."""
        tracker, facts, truth = self._tracker, self._facts, self._truth
        start = time.perf_counter_ns() if self._timed else 0
        plan = self.policy.choose(scene, tracker.link())
        if self._timed:
            self._choose_us[index] = (time.perf_counter_ns() - start) / 1e3
        final = plan.split == facts.final
        up = tracker.state is TailState.UP
        audit = (up or final) and self._random.random() < plan.audit_probability
        probe = not final and tracker.probe_due(now)
        jitter = 0.9 + 0.2 * self._random.random()
        exits: list[ExitAnswer] = []
        stage_ms: dict[int, float] = {}
        exit_ms: dict[int, float] = {}
        stopped = None
        for stage in range(plan.split + 1):
            stage_ms[stage] = truth.stage_ms[stage] * jitter
            threshold = plan.thresholds[stage]
            if threshold is None or stage not in self._stage_of:
                continue
            column = self._stage_of.index(stage)
            exit_ms[stage] = truth.exit_ms[stage] * jitter
            exits.append(ExitAnswer(stage, prediction[column], confidence[column]))
            if stopped is None and confidence[column] >= threshold:
                stopped = stage
                if not (audit or probe):
                    break
        compute_ms = truth.overhead_ms + sum(stage_ms.values()) + sum(exit_ms.values())
        done = now + compute_ms / 1e3
        self._audit[index] = audit and stopped is not None and stopped != facts.final
        frame = _Frame(
            index, plan, scene, tuple(exits), stage_ms, exit_ms, now, done, compute_ms, audit
        )
        self._pass(done, model)
        local = stopped is not None or final
        up = tracker.state is TailState.UP
        if not final and ((not local and up and done < now + self._deadline)
                          or (local and audit) or probe):  # fmt: skip
            flag = Flag.NONE if not local and up else Flag.AUDIT if audit and local else Flag.PROBE
            said = prediction[-1]
            if self._coded and plan.split in self._splits:
                said = coded[self._splits.index(plan.split)]
            self._send(frame, flag, model, said, confidence[-1])
            if flag is Flag.NONE:
                self._waiting[index] = frame
                return done
        if local:
            self._decide(frame, Route.LOCAL, Reason.CONFIDENT, done, stopped=stopped)
        else:
            self._decide(frame, Route.FALLBACK, Reason.TAIL_DOWN, done)
        return done

    def _send(
        self,
        frame: _Frame,
        flag: Flag,
        model: LinkModel | TraceModel,
        said: int,
        confidence: float,
    ) -> None:
        plan, now = frame.plan, frame.computed
        codings = self._facts.codings[plan.split]
        name = AUDIT_CODEC if flag is Flag.AUDIT and AUDIT_CODEC in codings else plan.codec
        frame.size = int(codings[name].bytes) + PREAMBLE_BYTES
        deadline = (frame.begun if flag is Flag.NONE else now) + self._deadline
        self._tracker.sent(InFlight(frame.index, frame.size, now, deadline, flag))
        arrived = model.send(frame.size, now)
        if arrived is None:
            return
        tail_ms = self._truth.tail_ms[plan.split]
        back = model.send(PREAMBLE_BYTES + 4 * self._facts.classes, arrived + tail_ms / 1e3,
                          back=True)  # fmt: skip
        if back is None:
            return
        if self._tail is not None:
            said = self._tail(said, math.prod(self._facts.sizes), self._random)
        scores = self._scores(said, max(confidence, 1e-3))
        reply = ReplyFrame(Status.OK, _FINGERPRINT, 1, frame.index, scores, int(tail_ms * 1e3))
        heapq.heappush(self._events, (back, frame.index, reply))

    def _scores(self, label: int, confidence: float) -> NDArray[np.float32]:
        """Scores (K,) that say a label with a confidence, and nothing else."""
        scores: NDArray[np.float32] = self._zeros.copy()
        scores[places(label, self._facts.sizes)] = confidence
        return scores

    def _decide(
        self,
        frame: _Frame,
        route: Route,
        reason: Reason,
        now: float,
        reply: ReplyFrame | None = None,
        stopped: int | None = None,
    ) -> None:
        local = frame.exits[-1] if stopped is None else next(
            answer for answer in frame.exits if answer.stage == stopped
        )  # fmt: skip
        if reply is None:
            scores = self._scores(local.label, local.confidence)
            exit_ = local.stage
        else:
            scores, exit_ = reply.scores, self._facts.final
        label, confidence = judge(scores, self._facts.sizes)
        latency = (now - frame.begun) * 1e3
        decision = Decision(
            sequence=frame.index,
            source=0,
            header=None,
            route=route,
            reason=reason,
            exit=exit_,
            scores=scores,
            confidence=float(confidence),
            threshold=frame.plan.thresholds[local.stage] or 0.0,
            plan=frame.plan,
            scene=frame.scene,
            payload_bytes=frame.size,
            audit=frame.audit,
            times=Times(
                compute=frame.compute_ms,
                tail=reply.tail_us / 1e3 if reply else 0.0,
                total=latency,
            ),
            exits=frame.exits,
            stage_ms=frame.stage_ms,
            exit_ms=frame.exit_ms,
            sizes=self._facts.sizes,
        )
        i = frame.index
        self._route[i] = ROUTES.index(route)
        self._exit[i], self._split[i] = exit_, frame.plan.split
        self._answer[i] = int(label)
        self._sent[i], self._latency[i] = frame.size, latency
        missed = route is Route.FALLBACK or latency > self._truth.deadline_ms
        joules = self._truth.joules(
            frame.compute_ms, frame.stage_ms, frame.exit_ms,
            frame.plan.split if frame.size else None,
        )  # fmt: skip
        self._cost[i] = self._truth.charge(latency, frame.size, joules, missed=missed)
        start = time.perf_counter_ns() if self._timed else 0
        self.policy.observe(decision)
        if self._timed:
            self._observe_us[i] = (time.perf_counter_ns() - start) / 1e3


def calibration_of(table: ConfidenceTable) -> Calibration:
    """What a bundle's calibration would hold had it been made from this table, by scene."""
    scenes = {}
    for index, scene in enumerate(table.scenes):
        rows = table.scene == index
        if rows.any():
            full = table.full[rows, None]
            scenes[scene] = Sample(
                table.confidence[rows, :-1].astype(np.float64),
                table.prediction[rows, :-1] != full,
                table.coded[rows] != full,
            )
    return Calibration(scenes, table.splits)


def steady(spec: LinkSpec, size: float = 300.0, loss: float | None = None) -> Link:
    """A link as the head would come to see it after a while."""
    if not spec.present:
        return Link(TailState.DOWN)
    wire = 0.0 if math.isinf(spec.rate_mbit) else (size + 500) * 8e-3 / spec.rate_mbit
    lost = 1 - (1 - spec.loss) ** 2 if loss is None else loss
    rtt = 2 * (spec.delay_ms + spec.jitter_ms) + wire
    return Link(TailState.UP, rtt, max(spec.jitter_ms, 0.05), math.nan, lost)


@dataclass(frozen=True)
class Fixed:
    """A fixed choice in hindsight: its split, exit threshold and what it costs per frame."""

    split: int
    threshold: float
    codec: str
    cost: float
    disagreement: float
    local: float
    accuracy: float


def hindsight(
    table: ConfidenceTable,
    facts: Facts,
    truth: CostModel,
    link: Link,
    target: float = 1.0,
) -> list[Fixed]:
    """Every fixed split, codec and threshold (of the split's own exit) that keeps ``target``.

    Cheapest first, with all local (threshold NEVER at the last split) and all offboard among them.
    ``link`` is taken as steady.
    """
    final = facts.final
    right = table.prediction == table.label[:, None]
    everything = truth.local(final, (final,))
    found = [Fixed(final, NEVER, '', everything, 0.0, 1.0, float(right[:, -1].mean()))]
    for column, stage in enumerate(table.stages[:-1]):
        differs = table.prediction[:, column] != table.full
        order = np.argsort(-table.confidence[:, column], kind='stable')
        confidence = table.confidence[order, column]
        errors = np.concatenate([[0], np.cumsum(differs[order])]) / len(table)
        gained = np.concatenate([[0], np.cumsum(right[order, column])])
        share = np.arange(len(table) + 1) / len(table)
        # Only where the confidence changes can a threshold cut.
        cuts = np.flatnonzero(np.concatenate([[True], np.diff(confidence) < 0, [True]]))
        early = truth.local(stage, (stage,))
        options = []
        if stage in facts.codings:
            spent = truth.compute_ms(stage, (stage,))
            # An answer that cannot come in time is a fallback, of which nothing is promised.
            known = 0.0 if math.isnan(link.rtt_ms) else link.rtt_ms
            late = spent + truth.tail_ms[stage] + known > truth.deadline_ms
            options = [
                (stage, name, truth.offload(stage, name, spent, link, (stage,)))
                for name in facts.codings[stage]
                if not late and link.state is TailState.UP
            ]
        options.append((final, '', truth.local(final, (stage, final))))
        for split, name, dear in options:
            cost = share * early + (1 - share) * dear
            said = table.full
            if split in table.splits:
                said = table.coded[:, table.splits.index(split)]
            wrong = np.concatenate([[0], np.cumsum((said != table.full)[order])]) / len(table)
            changed = wrong[-1]
            differ = errors + changed - wrong
            hits = np.concatenate([[0], np.cumsum((said == table.label)[order])])
            allowed = cuts[differ[cuts] <= target]
            if not len(allowed):
                continue
            best = allowed[np.argmin(cost[allowed])]
            threshold = float(confidence[best - 1]) if best else NEVER
            accuracy = (hits[-1] - hits[best] + gained[best]) / len(table)
            found.append(Fixed(split, threshold, name, float(cost[best]), float(differ[best]),
                               float(share[best]), float(accuracy)))  # fmt: skip
            found.append(Fixed(split, NEVER, name, float(dear), float(changed), 0.0,
                               float(hits[-1] / len(table))))  # fmt: skip
    return sorted((item for item in found if item.disagreement <= target),
                  key=lambda item: item.cost)  # fmt: skip


def time_to_adapt(run: Run, change: int, best: float, gap: float, window: int = 100) -> int | None:
    """Frames after ``change`` until the mean cost over ``window`` frames stays near the best.

    Near is within 5 % of ``gap``, the difference between always-final and the best; it stays so for
    ``window`` such means. None when the run ends before.
    """
    cost = run.cost[change:]
    if len(cost) < window:
        return None
    mean = np.convolve(cost, np.ones(window) / window, 'valid')
    near = mean <= best + 0.05 * gap
    for start in range(len(near) - window + 1):
        if near[start : start + window].all():
            return start
    return None
