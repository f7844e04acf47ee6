# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The joint policy: split, exits, thresholds and codec per scene, at least cost under the promise.

For every scene a sample of frames (calibration, then live ones by importance weight) is kept as
confidence bins. Every few hundred frames each arm (a split and the exits evaluated on the way) and
codec is tried on it: the thresholds are the lowest the risk allows. Per frame only the costs of
these few candidates are compared, with the link as it is now.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.tracker import remember
from sparse_split_ros.policy.candidates import (
    Arm,
    Candidate,
    Search,
    after_others,
    coding_curves,
    histogram,
    starting_curve,
)
from sparse_split_ros.policy.cost import CostModel, Weights
from sparse_split_ros.policy.decision import Decision, Route
from sparse_split_ros.policy.facts import NEVER, Facts
from sparse_split_ros.policy.plan import Plan, PolicyError, shown_thresholds
from sparse_split_ros.policy.risk import (
    BINS,
    CALIBRATION_WORTH,
    EDGES,
    FOREIGN_WORTH,
    Calibration,
    Labelled,
    SceneRisk,
    bin_of,
    bins_of,
    calibration_scale,
)
from sparse_split_ros.policy.scene_state import FIRST_REFRESHES, Saved, SceneState
from sparse_split_ros.policy.tasks import judge
from sparse_split_ros.policy.watch import Budget, FeedbackCheck

if TYPE_CHECKING:
    from sparse_split_ros.link.estimate import Link
    from sparse_split_ros.link.frame import ReplyFrame
    from sparse_split_ros.policy.scene import Scene

# More scenes than this share one.
_MAX_SCENES = 16
# Calibration frames of a scene that arms are tried on.
_THINNED = 512
# Weight of the calibration sample beside live frames, in frames.
_SAMPLE_WORTH = 300.0
_REFRESH = 250
# A comparison of costs is good for so many frames, unless something changed.
_KEEP = 8
# Another plan must be so much cheaper to be worth a change.
_STICKY = 0.98
_EXPLORE = 0.01
# Of which so many by playing another arm.
_OTHER_ARM = 0.2
# So many labelled frames of a scene are gathered before its cheapest arm is looked for.
_ENOUGH = 400
# And so many more while no exit is known well enough to answer.
_PATIENCE = 5000
# Evidence, ln 1/δ, at which the watch raises an alarm, and what it bets on.
_ALARM = math.log(1e3)
_ODDS = 5.0


@dataclass(slots=True)
class _Waiting:
    """A frame whose full answer may still come: what the exits said, −1 where one was not asked.

    ``deepest`` is the number of the deepest exit that was, −1 for none.
    """

    scene: str
    source: int
    bins: list[int]
    labels: list[int]
    deepest: int
    weight: float
    coding: float


class JointPolicy:
    """Least expected cost among the arms that keep ``target``; see the module and ``risk``.

    ``calibration`` holds frames by scene from the bundle's selection split; without it the robot
    asks for everything until it knows better. ``all_local`` tells whether the robot holds the last
    stage, so that computing everything itself is an arm. ``z`` is the number of standard deviations
    of the margin.
    """

    def __init__(
        self,
        facts: Facts,
        costs: CostModel,
        *,
        target: float = 0.01,
        calibration: Calibration | None = None,
        audit_share: float = 0.02,
        audit_burst: float = 0.10,
        all_local: bool = True,
        z: float = 1.75,
        seed: int = 0,
    ) -> None:
        if not 0 < target < 1:
            raise PolicyError(f'target_disagreement {target}, expected a share between 0 and 1')
        self.facts = facts
        self.costs = costs
        self.target = target
        self.budget = Budget(audit_share, audit_burst)
        self.feedback = FeedbackCheck()
        self.alarms = 0
        self.rejected = 0
        self._final = facts.final
        self._early = tuple(stage for stage in facts.stages if stage < facts.final)
        self._number = {stage: i for i, stage in enumerate(self._early)}
        self._calibration = _checked(calibration, len(self._early))
        self._curve = starting_curve(self._calibration, len(self._early))
        late = after_others(self._calibration, self._curve)
        self._late: list[float] = late.tolist()
        self._search = Search(facts, self._early, late, all_local=all_local, z=z)
        self._holds_last = all_local or not facts.splits
        self._alone = _alone(facts, self._early)
        self._random = random.Random(seed)
        self._scenes: dict[str, SceneState] = {}
        self._scene = ''
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._plans: dict[tuple[Candidate, float], Plan] = {}
        self._candidate: Candidate | None = None
        # The share of frames the last plan is expected to answer early, None until one is made.
        self._stopping: float | None = None
        self._cameras: set[int] = set()
        self._before: Arm | None = None
        self._age = 0
        self._link_state = TailState.UNKNOWN

    def choose(self, scene: Scene, link: Link) -> Plan:
        """The plan for one frame."""
        name = scene.name
        state = self._scenes.get(name) or self._open(name)
        if name != self._scene:
            if state.seen < 500 and name not in self._calibration.scenes:
                self.budget.changed()
            self._scene, self._candidate = name, None
        if self._candidate is None or self._age >= _KEEP or link.state is not self._link_state:
            self._candidate = self._cheapest(state, link)
            self._stopping = state.stopping = sum(self._candidate.stops)
            self._age, self._link_state = 0, link.state
        self._age += 1
        candidate = self._candidate
        if self.feedback.poisoned and self._alone:
            return self._guarded(candidate, link)
        probability = self.budget.next()
        if link.state is TailState.UP and self._random.random() < _EXPLORE:
            candidate = self._explored(state, candidate)
        return self._planned(candidate, probability)

    def _guarded(self, usual: Candidate, link: Link) -> Plan:
        """While the tail is not believed: it is asked only to see whether it still is not."""
        probability = self.budget.recheck()
        if usual.arm.split != self.facts.final:
            return self._planned(usual, probability)
        if link.state is TailState.UP and self._random.random() < probability:
            return self._planned(self._deepest(), 1.0)
        return self._planned(usual, 0.0)

    def _promises(self) -> bool:
        """Not where the robot has neither the last stage nor a tail to believe."""
        return self._holds_last or not self.feedback.poisoned

    def _deepest(self) -> Candidate:
        """The deepest exit before a split that answers in time."""
        return self._in_time(self._alone)[-1]

    def _in_time(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those that the robot computes before the deadline, or all where it computes none."""
        costs = self.costs
        found = [
            item
            for item in candidates
            if costs.compute_ms(item.arm.split, self._evaluated(item)) <= costs.deadline_ms
        ]
        return found or candidates

    def _evaluated(self, item: Candidate) -> tuple[int, ...]:
        """The stages of its early exits."""
        return tuple(self._early[exit_] for exit_ in item.arm.exits)

    def _explored(self, state: SceneState, usual: Candidate) -> Candidate:
        """Look at exits that the usual arm leaves out: they are otherwise never seen.

        Those on its way are only evaluated, and never answer; it costs little. Deeper ones are
        seen by playing another arm that keeps the promise, which may cost more and is rarer.
        """
        if self._random.random() < _OTHER_ARM:
            others = [item for item in state.candidates if item.kept and item.arm != usual.arm]
            return self._random.choice(others) if others else usual
        seen = tuple(
            NEVER if value is None and stage in self._number and stage < usual.arm.split else value
            for stage, value in enumerate(usual.thresholds)
        )
        return replace(usual, thresholds=seen)

    def _planned(self, candidate: Candidate, probability: float) -> Plan:
        plan = self._plans.get((candidate, probability))
        if plan is None:
            if len(self._plans) > 256:
                self._plans.clear()
            plan = Plan(candidate.arm.split, candidate.thresholds, candidate.codec, probability)
            self._plans[candidate, probability] = plan
        return plan

    def _cheapest(self, state: SceneState, link: Link) -> Candidate:
        if not self._promises():
            return self._deepest()
        if state.looking and not self.feedback.poisoned:
            # Nothing is known of exits that are not evaluated: look at all of them first.
            return max(
                self._in_time(state.candidates),
                key=lambda item: (len(item.arm.exits), item.kept, item.arm.split),
            )
        if not state.contenders:
            # Nothing keeps the promise: come as close as possible.
            return min(self._in_time(state.candidates), key=lambda item: item.risk)
        only_own = self.feedback.poisoned
        before, final = self._before, self.facts.final
        best, least = state.contenders[0][0], math.inf
        for item, own, spent in state.contenders:
            if item.arm.split == final:
                cost = own
            elif only_own:
                continue
            else:
                cost = own + item.rest * self.costs.offload(
                    item.arm.split, item.codec, spent, link, self._evaluated(item)
                )
            if item.arm == before:
                cost *= _STICKY
            if cost < least:
                best, least = item, cost
        self._before = best.arm
        return best

    def _contenders(self, candidates: list[Candidate]) -> list[tuple[Candidate, float, float]]:
        """Candidates, what their frames on the robot cost, and the ms before an offload.

        Of those with one split and codec only those that win at some price of an offload are kept:
        the price is all that the link can change.
        """
        costs, final = self.costs, self.facts.final
        groups: dict[tuple[int, str], list[tuple[Candidate, float, float]]] = {}
        for item in candidates:
            if not item.kept:
                continue
            stages = self._evaluated(item)
            own = sum(
                share * costs.local(stage, stages) for share, stage in zip(item.stops, stages)
            )
            split = item.arm.split
            if split == final:
                own += item.rest * costs.local(split, (*stages, split))
            spent = costs.compute_ms(split, stages)
            groups.setdefault((split, item.codec), []).append((item, own, spent))
        found = []
        for (split, _), group in groups.items():
            rate = 0.0 if split == final else costs.weights.ms
            prices = (0.0, 0.2, 0.5, 2.0) if rate else (0.0,)
            totals = [
                [own + item.rest * rate * (spent + price * costs.deadline_ms)
                 for item, own, spent in group] for price in prices
            ]  # fmt: skip
            winners = sorted({total.index(min(total)) for total in totals})
            found += [group[i] for i in winners]
        return found

    def _open(self, name: str) -> SceneState:
        """A scene met for the first time."""
        if len(self._scenes) >= _MAX_SCENES:
            return next(iter(self._scenes.values()))
        exits = len(self._early)
        known = self._calibration.scenes.get(name)
        samples = [known] if known is not None else list(self._calibration.scenes.values())
        counts = np.zeros((2, exits, BINS))
        for sample in samples:
            counts += histogram(sample)
        worth = FOREIGN_WORTH if known is None else CALIBRATION_WORTH
        scale = calibration_scale(counts[0].sum() / max(exits, 1), worth)
        bins = np.concatenate([bins_of(sample.confidence)[:_THINNED] for sample in samples] or [
            np.zeros((0, exits), np.int64)
        ])  # fmt: skip
        weights = np.full(len(bins), _SAMPLE_WORTH / max(len(bins), 1))
        risk = SceneRisk(exits, self._curve.copy(), counts, scale)
        coding = coding_curves(self.facts, self._early, self._calibration, name)
        state = SceneState(risk, bins, weights, coding)
        state.labelled = _PATIENCE if known is not None else 0
        self._scenes[name] = state
        state.checkpoints = [risk.learned()]
        self._refresh(state)
        return state

    def _refresh(self, state: SceneState, observed: bool = True) -> None:
        """Fit the scene's risk and find each arm's thresholds anew; what was ``observed`` counts.

        Without it, as when settings change, caution stays as it is.
        """
        risk = state.risk
        # While the tail is not believed, only the robot's own last exit teaches.
        risk.fit()
        if observed:
            risk.caution = max(1.0, 0.8 * risk.caution)
        if observed and self.feedback.clear:
            state.checkpoints = [*state.checkpoints[-1:], risk.learned()]
        others = [other.risk for other in self._scenes.values() if other is not state]
        account = sum(item.answers for item in others), sum(item.spent() for item in others)
        found = self._search(risk, state.coding, *state.sample(), self.target, account)
        state.candidates = found
        state.contenders = self._contenders(found)
        useful = any(item.kept and sum(item.stops) > 0.3 for item in found)
        state.looking = state.labelled < (_ENOUGH if useful else _PATIENCE)
        self._candidate = self._stopping = state.stopping = None

    def observe(self, decision: Decision) -> None:
        """Learn what a decision shows: times, and where the full answer is known, who was right."""
        self._measured(decision)
        state = self._scenes.get(decision.scene.name)
        if state is None:
            return
        row = self._row(decision, state.changed)
        if row is None:
            self.rejected += 1
            return
        route, risk = decision.route, state.risk
        number = self._number.get(decision.exit) if route is Route.LOCAL else None
        state.seen += 1
        for exit_, bin_ in enumerate(row.bins):
            if bin_ >= 0:
                risk.first[exit_][bin_] += 1
                break
        if route is Route.OFFBOARD:
            risk.answers += 1
            risk.coding += row.coding
            if not self.feedback.poisoned:
                self.costs.answered(
                    decision.plan.split,
                    decision.payload_bytes,
                    min(decision.times.tail, decision.times.offboard),
                )
            self._label(state, row, decision.label)
        elif route is Route.LOCAL:
            # What is answered without a promise is not paid back later.
            promised = self._promises()
            risk.answers += promised
            if promised and number is not None and row.bins[number] >= 0:
                passed = decision.plan.thresholds[: decision.exit]
                alone = all(value is None or value > 1 for value in passed)
                risk.local[number][row.bins[number]] += 1.0 if alone else self._late[number]
            last = decision.exits[-1] if decision.exits else None
            if last is not None and last.stage == self._final:
                self._label(state, row, last.label, own=True)
            elif decision.payload_bytes:
                remember(self._waiting, decision.sequence, row)
        elif decision.payload_bytes:
            remember(self._waiting, decision.sequence, row)
        # One camera's decisions follow its plans, across a change of scene but for a few frames;
        # between the scenes of several they alternate.
        self._cameras.add(decision.source)
        stopping = self._stopping if len(self._cameras) == 1 else state.stopping
        if route is not Route.FALLBACK and stopping is not None:
            stopped = number is not None
            if state.shift.add(stopped - stopping):
                self.budget.changed()
                risk.shifted()
                if stopped < stopping:
                    risk.caution = max(risk.caution, 2.0)
                state.due = state.seen
        if state.seen >= state.due:
            later = [n for n in FIRST_REFRESHES if n > state.seen]
            state.due = later[0] if later else state.seen + _REFRESH
            self._refresh(state)

    def _measured(self, decision: Decision) -> None:
        """What the robot took for this frame, and for what."""
        stages, exits, times = decision.stage_ms, decision.exit_ms, decision.times
        if not stages:
            return
        self.costs.measured(stages, exits)
        split, encode_ms = None, 0.0
        if decision.payload_bytes:
            split = decision.plan.split
            encode_ms = times.compute - sum(stages.values()) - sum(exits.values())
        self.costs.around(times.queue + times.prepare, split, encode_ms)

    def _row(self, decision: Decision, changed: Mapping[int, list[float]]) -> _Waiting | None:
        """What the exits said; None when that is no number in [0, 1]."""
        bins, labels = [-1] * len(self._early), [-1] * len(self._early)
        deepest = -1
        for answer in decision.exits:
            if not 0 <= answer.confidence <= 1:
                return None
            number = self._number.get(answer.stage)
            if number is not None:
                bins[number] = bin_of(answer.confidence)
                labels[number] = answer.label
                deepest = number
        plan = decision.plan
        weight = 1.0
        if decision.route is Route.LOCAL and decision.exit != self._final:
            # A local frame is known by audit, with a known probability, or by a probe, whose
            # moment the link chose: that one tells of the curve and not of how frames are spread.
            audit = decision.audit and plan.audit_probability > 0
            weight = 1 / plan.audit_probability if audit else 0.0
        coded, coding = changed.get(plan.split), 0.0
        if coded is not None and deepest >= 0:
            coding = coded[bins[deepest]]
            # An audit of the robot's own answer is sent as fp16, which changes least.
            if not (decision.audit and decision.route is Route.LOCAL):
                coding = min(1.0, coding * self._search.harm[plan.split].get(plan.codec, 1.0))
        return _Waiting(decision.scene.name, decision.source, bins, labels, deepest, weight, coding)

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        """The tail's word on an audit, a probe or, too late, on a frame that was in doubt."""
        row = self._waiting.pop(sequence, None)
        state = self._scenes.get(row.scene) if row is not None else None
        if row is not None and state is not None and reply.scores.size == self.facts.classes:
            self._label(state, row, int(judge(reply.scores, self.facts.sizes)[0]))

    def _label(self, state: SceneState, row: _Waiting, label: int, own: bool = False) -> None:
        """The full network's answer to a frame is known; ``own`` when the robot computed it."""
        differs = [said >= 0 and said != label for said in row.labels]
        labelled = Labelled(row.bins, differs, row.weight, row.coding)
        risk = state.risk
        if not own:
            self._check_feedback(state, row, label)
            if self.feedback.poisoned:
                return
        state.labelled += 1
        risk.learn(labelled)
        risk.recent.append(labelled)
        state.add(labelled)
        own_label = row.labels[row.deepest] if row.deepest >= 0 else -1
        if risk.watch(labelled, own_label, label, _ODDS, row.source) > _ALARM:
            self.alarms += 1
            risk.alarm()
            state.forget()
            self.budget.changed()
            self._refresh(state)

    def _check_feedback(self, state: SceneState, row: _Waiting, label: int) -> None:
        deepest = row.deepest
        if deepest < 0:
            return
        expected = 1 - float(state.risk.curve[deepest, row.bins[deepest]])
        before = self.feedback.poisoned
        after = self.feedback.add(label, row.labels[deepest], expected, row.source)
        if after == before:
            return
        if after:
            # Unlearn what the poisoned answers taught before they were found out.
            for other in self._scenes.values():
                other.risk.unlearn(other.checkpoints[0])
        self._refresh(state)

    def change(
        self, *, target: float, weights: Weights, deadline_ms: float, audit_share: float
    ) -> None:
        """Take live settings, keep what was learned. Raises PolicyError, and then takes none."""
        if not 0 < target < 1:
            raise PolicyError(f'target_disagreement {target}, expected a share between 0 and 1')
        budget = Budget(audit_share, min(1.0, 5 * audit_share))
        if audit_share != self.budget.share:
            self.budget = budget
        before = self.target, self.costs.weights, self.costs.deadline_ms
        self.target = target
        self.costs.weights, self.costs.deadline_ms = weights, deadline_ms
        # Each takes longer than an answer may wait.
        if before != (target, weights, deadline_ms):
            for state in self._scenes.values():
                if before[0] != target:
                    state.risk.settle()
                self._refresh(state, observed=False)

    def diagnostics(self) -> dict[str, object]:
        """What a person may want to know."""
        values: dict[str, object] = {
            'target_disagreement': self.target,
            'feedback': f'poisoned: {self.feedback.reason}' if self.feedback.poisoned else 'ok',
            'risk_alarms': self.alarms,
            'policy_rejected': self.rejected,
        }
        state = self._scenes.get(self._scene)
        if state is not None:
            risk, answers = state.risk, max(state.risk.answers, 1.0)
            values['expected_disagreement'] = round(risk.spent() / answers, 5)
            kept = any(item.kept for item in state.candidates)
            values['promise_feasible'] = kept and self._promises()
        if self._candidate is not None:
            values['split_now'] = self._candidate.arm.split
            values['codec_now'] = self._candidate.codec
            values['thresholds_now'] = shown_thresholds(self._candidate.thresholds)
        return values

    @property
    def variant(self) -> tuple[str, ...]:
        """None: curves hold at any setting."""
        return ()

    def state(self) -> dict[str, Any]:
        """What was learned, for JSON; a copy."""
        scenes = {name: state.to_json() for name, state in self._scenes.items()}
        return {
            'edges': list(EDGES), 'exits': list(self._early), 'target': self.target,
            'scenes': scenes,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`, all or nothing. Raises PolicyError when it does not fit."""
        exits = len(self._early)
        try:
            if state['edges'] != list(EDGES) or state['exits'] != list(self._early):
                raise PolicyError('saved state has other bins or exits than this bundle')
            saved = {str(name): Saved(name, item, exits) for name, item in state['scenes'].items()}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, PolicyError):
                raise
            raise PolicyError(f'saved state is not of a joint policy: {error!r}') from error
        for name, item in list(saved.items())[:_MAX_SCENES]:
            scene = self._open(name)
            scene.take(item)
            if state.get('target', self.target) != self.target:
                scene.risk.settle()
            scene.checkpoints = [scene.risk.learned()]
            self._refresh(scene, observed=False)


def _alone(facts: Facts, early: tuple[int, ...]) -> list[Candidate]:
    """By split: the exit before it answers every frame, and what is sent is sent as an audit."""
    found = []
    for split in facts.splits:
        exit_ = max(i for i, stage in enumerate(early) if stage <= split)
        thresholds: list[float | None] = [None] * len(facts.macs)
        thresholds[early[exit_]] = 0.0
        codings = facts.codings[split]
        codec = min(codings, key=lambda name: codings[name].disagreement)
        found.append(
            Candidate(Arm(split, (exit_,)), codec, tuple(thresholds), (1.0,), 0.0, 1.0, kept=False)
        )
    return found


def _checked(calibration: Calibration | None, exits: int) -> Calibration:
    if calibration is None:
        return Calibration({})
    for name, sample in calibration.scenes.items():
        if sample.confidence.shape[1] != exits:
            raise PolicyError(
                f'calibration of scene {name!r} has {sample.confidence.shape[1]} exits before the '
                f'last, the bundle {exits}'
            )
    return calibration
