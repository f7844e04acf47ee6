# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""SplitEE and SplitEE-S (arXiv 2309.09195) and I-SplitEE (arXiv 2401.10541), made causal.

The arms are the split stages, the last one being the whole network on the robot. With C_i the
confidence at exit i the published reward is C_i less the cost when C_i reaches the fixed threshold
or i is the last, and C_L less the higher cost of offloading when not.

Where this differs from the published code, and why:

* C_L is used only when the tail's answer was received, or the robot computed the last exit. SplitEE
  needs it for offloaded frames alone, so it is the same algorithm. A fallback teaches nothing,
  unless its answer comes late.
* SplitEE-S also updates the arms below the one played. For a frame that stayed local, an arm j
  whose C_j is below the threshold would have offloaded, and its reward needs the C_L nobody
  computed. The published code reads it off the table. Here it is the mean C_L of offloaded frames
  of like confidence, and at least the confidence of the exit that answered.
* I-SplitEE's loop adds each reward again to all arms played before, so that counts grow with the
  square of time. ``isplitee`` leaves that out; :func:`published_i_splitee` keeps it, for
  comparison.
* The best arm is that of the best mean, not of the largest sum, of rewards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.link.tracker import remember
from sparse_split_ros.policy.bandit import Bandit, make_bandit
from sparse_split_ros.policy.cost import AbstractCosts
from sparse_split_ros.policy.decision import Decision, Route
from sparse_split_ros.policy.facts import NEVER, Facts
from sparse_split_ros.policy.plan import Plan, PolicyError
from sparse_split_ros.policy.state import MOST
from sparse_split_ros.policy.tasks import judge

if TYPE_CHECKING:
    from sparse_split_ros.link.estimate import Link
    from sparse_split_ros.link.frame import ReplyFrame
    from sparse_split_ros.policy.scene import Scene


class Learner(ABC):
    """Learns the best arm from confidences alone; knows neither stages nor messages.

    ``everything`` tells whether it wants all exits on the way evaluated, not only the arm's own.
    """

    everything = False

    def __init__(self, costs: AbstractCosts, threshold: float, bandit: Bandit) -> None:
        if not 0 <= threshold <= 1:
            raise PolicyError(f'threshold {threshold}, expected 0 to 1')
        self.costs = costs
        self.threshold = threshold
        self.bandit = bandit
        self.last = len(costs.depth) - 1

    def choose(self) -> int:
        """The arm to play."""
        return self.bandit.choose()

    def reward(self, arm: int, confidence: float, final: float) -> float:
        """r(arm) as published; ``final``, C_L, counts only where the frame would be offloaded."""
        if arm == self.last or confidence >= self.threshold:
            return self.costs.local(arm, confidence)
        return self.costs.offloaded(arm, final)

    def state(self) -> dict[str, Any]:
        """What was learned, for JSON; a copy."""
        return {'bandit': self.bandit.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`, all or nothing. Raises what reading something else raises."""
        self.bandit.restore(state['bandit'])

    @abstractmethod
    def learn(self, arm: int, confidences: Sequence[float], final: float | None) -> None:
        """What one play of ``arm`` showed.

        ``confidences`` are those of the exits 0..arm, NaN where not evaluated; ``final`` is C_L
        where it was received or computed.
        """


class OneArm(Learner):
    """SplitEE: the arm played learns, and no other."""

    def learn(self, arm: int, confidences: Sequence[float], final: float | None) -> None:
        """One observation of one arm; none when the answer that it needs never came."""
        confidence = confidences[arm]
        if arm == self.last or confidence >= self.threshold:
            self.bandit.update(arm, self.costs.local(arm, confidence))
        elif final is not None:
            self.bandit.update(arm, self.costs.offloaded(arm, final))


class SideObservations(Learner):
    """SplitEE-S and I-SplitEE: the arms on the way learn too."""

    everything = True

    def __init__(self, costs: AbstractCosts, threshold: float, bandit: Bandit) -> None:
        super().__init__(costs, threshold, bandit)
        self._final = FinalConfidence()

    def state(self) -> dict[str, Any]:
        """With what estimates C_L."""
        return {**super().state(), 'final': self._final.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`."""
        final = FinalConfidence.of(state['final'])
        super().restore(state)
        self._final = final

    def learn(self, arm: int, confidences: Sequence[float], final: float | None) -> None:
        """One observation of every arm up to ``arm``."""
        for j, reward in self._rewards(arm, confidences, final).items():
            self.bandit.update(j, reward)

    def _rewards(
        self, arm: int, confidences: Sequence[float], final: float | None
    ) -> dict[int, float]:
        """What the arms up to ``arm`` would have earned; none when the C_L of that is missing."""
        confidence = confidences[arm]
        if final is not None:
            self._final.learn(confidence, final)
        elif arm < self.last and confidence < self.threshold:
            return {}
        known = self._final.estimate(confidence) if final is None else final
        return {
            j: self.reward(j, confidences[j], known)
            for j in range(arm + 1)
            if not math.isnan(confidences[j])
        }


class PairedElimination(SideObservations):
    """The same arms and rewards, better learned: what one frame says of two arms is compared.

    A frame played at arm i shows the rewards of all arms up to i at once (with the estimate of
    C_L), so arms are compared by paired differences, whose variance is far below that of either.
    The deepest arm that may still be best is played, until empirical Bernstein bounds on its
    difference to the leader rule it out, or its known cost does: r_j <= 1 - μ·cost_j.
    ``confidence`` scales ln t in the bounds.
    """

    def __init__(
        self, costs: AbstractCosts, threshold: float, bandit: Bandit, confidence: float = 0.2
    ) -> None:
        super().__init__(costs, threshold, bandit)
        self._confidence = confidence
        arms = self.last + 1
        # Over the frames that showed both arms, of r_j - r_i: count, sum, sum of squares.
        self._pairs = [[[0.0, 0.0, 0.0] for _ in range(arms)] for _ in range(arms)]
        self._plays = 0
        self._arm = self.last

    def choose(self) -> int:
        """The deepest arm not ruled out."""
        return self._arm

    def state(self) -> dict[str, Any]:
        """With what is known of pairs."""
        pairs = [[pair[:] for pair in row] for row in self._pairs]
        return {**super().state(), 'pairs': pairs, 'plays': self._plays}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`."""
        pairs, plays = np.asarray(state['pairs'], float), int(state['plays'])
        if pairs.shape != (self.last + 1, self.last + 1, 3) or plays < 0:
            raise PolicyError('saved state has pairs of other arms')
        if not ((abs(pairs) <= MOST).all() and (pairs[:, :, ::2] >= 0).all()):
            raise PolicyError('saved state has impossible pairs')
        super().restore(state)
        self._pairs, self._plays = pairs.tolist(), plays
        self._arm = self._deepest()

    def learn(self, arm: int, confidences: Sequence[float], final: float | None) -> None:
        """Update every pair of arms the frame shows."""
        rewards = self._rewards(arm, confidences, final)
        if not rewards:
            return
        for j, reward in rewards.items():
            self.bandit.update(j, reward)
        for i, j in combinations(rewards, 2):
            pair, difference = self._pairs[j][i], rewards[j] - rewards[i]
            pair[0] += 1
            pair[1] += difference
            pair[2] += difference * difference
        self._plays += 1
        self._arm = self._deepest()

    def _deepest(self) -> int:
        log_t = self._confidence * math.log(self._plays + 1)
        for j in range(self.last, 0, -1):
            if not any(self._ruled_out(j, i, log_t) for i in range(j)):
                return j
        return 0

    def _ruled_out(self, j: int, i: int, log_t: float) -> bool:
        """Whether the deeper arm j is worse than i beyond doubt."""
        counts = self.bandit.counts
        if counts[i] > 0:
            best = 1.0 - self.costs.mu * self.costs.per_layer * self.costs.depth[j]
            radius = self.costs.scale * math.sqrt(log_t / (2 * counts[i]))
            if self.bandit.mean(i) - radius > best:
                return True
        count, total, squares = self._pairs[j][i]
        if count < 3:
            return False
        mean = total / count
        variance = max(squares / count - mean * mean, 0.0)
        radius = math.sqrt(2 * variance * log_t / count) + self.costs.scale * log_t / (3 * count)
        return mean + radius < 0


class FinalConfidence:
    """E[C_L | confidence of the deepest exit evaluated], by bins, from the answers received."""

    _BINS = 20

    def __init__(self) -> None:
        self._counts = [0.0] * self._BINS
        self._sums = [0.0] * self._BINS

    def state(self) -> dict[str, list[float]]:
        """What was learned, for JSON; a copy."""
        return {'counts': self._counts[:], 'sums': self._sums[:]}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> FinalConfidence:
        """That of :meth:`state`. Raises PolicyError for impossible numbers."""
        known = cls()
        known._counts, known._sums = ([float(x) for x in state[k]] for k in ('counts', 'sums'))
        if not len(known._counts) == len(known._sums) == cls._BINS or not all(
            0 <= total <= count + 1e-6 < math.inf
            for total, count in zip(known._sums, known._counts)
        ):
            raise PolicyError('saved state has impossible final confidences')
        return known

    def learn(self, confidence: float, final: float) -> None:
        """A frame of this confidence had this C_L."""
        bin_ = self._bin(confidence)
        self._counts[bin_] += 1
        self._sums[bin_] += final

    def estimate(self, confidence: float) -> float:
        """The mean of the nearest bin at or below that has seen a frame; at least the confidence.

        Frames of high confidence are never offloaded, so theirs is an extrapolation: C_L mostly
        grows with the confidence of the exits before it.
        """
        for bin_ in range(self._bin(confidence), -1, -1):
            if self._counts[bin_]:
                return max(confidence, self._sums[bin_] / self._counts[bin_])
        return confidence

    def _bin(self, confidence: float) -> int:
        return min(self._BINS - 1, int(confidence * self._BINS))


class SplitEEPolicy:
    """A learner of arms as a policy. See the module for what is published and what is not.

    ``threshold`` is the papers' α. The link is not looked at: the papers do not, either.
    """

    def __init__(self, facts: Facts, learner: Learner) -> None:
        self._facts = facts
        self._learner = learner
        self._arms = splits_and_final(facts)
        self._codecs = {split: _default_codec(facts, split) for split in facts.codings}
        self._plans = [self._plan(arm) for arm in range(len(self._arms))]
        self._waiting: OrderedDict[int, Decision] = OrderedDict()
        self.rejected = 0

    @property
    def learner(self) -> Learner:
        """What learns."""
        return self._learner

    def _plan(self, arm: int) -> Plan:
        split = self._arms[arm]
        thresholds: list[float | None] = [None] * len(self._facts.macs)
        if self._learner.everything:
            for stage in self._arms[:arm]:
                thresholds[stage] = NEVER
        final = split == self._facts.final
        thresholds[split] = 0.0 if final else self._learner.threshold
        return Plan(split, tuple(thresholds), '' if final else self._codecs[split])

    def choose(self, scene: Scene, link: Link) -> Plan:
        """The arm's plan."""
        return self._plans[self._learner.choose()]

    def observe(self, decision: Decision) -> None:
        """Learn from a local answer, or from the tail's in time."""
        if decision.route is Route.FALLBACK:
            remember(self._waiting, decision.sequence, decision)
            return
        offboard = decision.route is Route.OFFBOARD
        self._learn(decision, decision.confidence if offboard else None)

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        """A late answer is a C_L that was really received."""
        decision = self._waiting.pop(sequence, None)
        if decision is not None:
            self._learn(decision, float(judge(reply.scores, self._facts.sizes)[1]))

    def _learn(self, decision: Decision, final: float | None) -> None:
        if decision.plan.split not in self._arms:
            return
        arm = self._arms.index(decision.plan.split)
        known = {answer.stage: answer.confidence for answer in decision.exits}
        confidences = [known.get(stage, math.nan) for stage in self._arms[: arm + 1]]
        if final is None and arm == len(self._arms) - 1:
            final = confidences[arm]
        used = [answer.confidence for answer in decision.exits] + [final or 0.0]
        if not all(0 <= value <= 1 for value in used) or math.isnan(confidences[arm]):
            self.rejected += 1
            return
        self._learner.learn(arm, confidences, final)

    @property
    def variant(self) -> tuple[str, ...]:
        """The threshold: what was learned at another says nothing here."""
        return (f'{self._learner.threshold:g}',)

    def _terms(self) -> dict[str, Any]:
        """What rewards depend on: those of other terms say nothing here."""
        costs = self._learner.costs
        return {
            'threshold': self._learner.threshold,
            'costs': {**asdict(costs), 'depth': list(costs.depth)},
        }

    def state(self) -> dict[str, Any]:
        """What was learned and on which terms, for JSON; a copy."""
        return {**self._terms(), **self._learner.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state`, all or nothing. Raises PolicyError when it does not fit."""
        for name, mine in self._terms().items():
            if state.get(name) != mine:
                raise PolicyError(f'learned for {name} {state.get(name)}, this is {mine}')
        try:
            self._learner.restore(state)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, PolicyError):
                raise
            raise PolicyError(f'saved state is not of this policy: {error!r}') from error

    def diagnostics(self) -> dict[str, object]:
        """What a person may want to know."""
        bandit = self._learner.bandit
        return {
            'best_split': self._arms[bandit.best()],
            'plays': '/'.join(f'{count:.0f}' for count in bandit.counts),
            'policy_rejected': self.rejected,
        }


def splits_and_final(facts: Facts) -> tuple[int, ...]:
    """The stages that are arms: splits with an exit of their own, and the last stage."""
    return (*(split for split in facts.splits if split in facts.exits), facts.final)


def _default_codec(facts: Facts, split: int) -> str:
    return facts.default[2] if facts.default[2] in facts.codings[split] else min(
        facts.codings[split], key=lambda name: facts.codings[split][name].bytes
    )  # fmt: skip


LEARNERS: dict[str, type[Learner]] = {
    'splitee': OneArm,
    'splitee-s': SideObservations,
    'isplitee': SideObservations,
    'splitee-paired': PairedElimination,
}


def make_learner(
    name: str,
    arms: int,
    *,
    threshold: float | None = None,
    index: str = 'ucb1',
    beta: float = 1.0,
    offload: float = 0.5,
) -> Learner:
    """A learner with the constants of its paper: α = 0.5 and β = 1 for I-SplitEE.

    SplitEE's α is set per data set on validation data, so it must be given; 0.9 stands in.
    """
    if name not in LEARNERS:
        raise PolicyError(f'unknown learner {name!r}, choose one of {", ".join(LEARNERS)}')
    if name == 'isplitee':
        costs = AbstractCosts.i_splitee(arms, offload)
        threshold = 0.5 if threshold is None else threshold
    else:
        costs = AbstractCosts.splitee(arms, offload)
        threshold = 0.9 if threshold is None else threshold
    settings = {'beta': beta} if index == 'ucb1' else {'scale': costs.scale}
    return LEARNERS[name](costs, threshold, make_bandit(index, arms, **settings))


def play(learner: Learner, confidence: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The arms a learner plays on a stream of confidences (T, L), told only what a robot knows."""
    arms = np.empty(len(confidence), np.int64)
    last = learner.last
    for t, row in enumerate(confidence.tolist()):
        arm = learner.choose()
        arms[t] = arm
        stays = arm < last and row[arm] >= learner.threshold
        seen = row[: arm + 1] if learner.everything else [math.nan] * arm + [row[arm]]
        learner.learn(arm, seen, None if stays else row[last])
    return arms


def rewards(learner: Learner, confidence: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """What every arm would have earned on every frame (T, L): hindsight, for regret."""
    c = np.asarray(confidence, np.float64)
    costs = learner.costs
    spent = costs.mu * costs.per_layer * np.asarray(costs.depth)
    stays = c >= learner.threshold
    stays[:, -1] = True
    return np.where(stays, c, c[:, -1:] - costs.mu * costs.offload) - spent


def published_i_splitee(
    reward: NDArray[np.float64], stays: NDArray[np.bool_], beta: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """The arms of I-SplitEE's published loop, its fault kept, on a stream of hindsight rewards.

    ``reward`` (T, L) of every arm on every frame, ``stays`` (T, L) whether the frame would be
    answered locally there. The fault: after each frame its reward is added once more to the arm of
    every earlier frame that stayed local; also, the arm played is counted once per arm below it,
    and arm 0 not at all.
    """
    frames, arms = reward.shape
    rng = np.random.default_rng(seed)
    counts = [1.0] * arms
    sums = [float(reward[rng.integers(frames), arm]) for arm in range(arms)]
    past = [0] * arms
    played = np.empty(frames, np.int64)
    for t in range(frames):
        log_t = math.log(arms + t + 1)
        index = [sums[a] / counts[a] + beta * math.sqrt(log_t / counts[a]) for a in range(arms)]
        arm = index.index(max(index))
        played[t] = arm
        row = reward[t].tolist()
        for below in range(arm):
            counts[below] += 1
            sums[below] += row[below]
        counts[arm] += arm
        sums[arm] += arm * row[arm]
        if stays[t, arm]:
            past[arm] += 1
        for other in range(arms):
            counts[other] += past[other]
            sums[other] += past[other] * row[arm]
    return played
