# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy may choose from: arms, and the lowest thresholds the promise allows each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.policy.facts import Coding, Facts
from sparse_split_ros.policy.risk import (
    AHEAD,
    BINS,
    CALIBRATION_WORTH,
    CLUSTER,
    EDGES,
    FOREIGN_WORTH,
    HORIZON,
    LEVELS,
    REPAY,
    Calibration,
    Floats,
    Sample,
    SceneRisk,
    bins_of,
    calibration_scale,
    falling,
    threshold_of,
)

Bins = NDArray[np.int64]
# (2, B): mean and variance of P(coding changes the tail's answer | bin).
Coded = NDArray[np.float64]
# The least share of frames taken to pass all exits: one in the frames a sample is worth.
_LEAST = 1 / 300
# So many frames show how sure the exits of a stream are.
_FIRST_LOOK = 20
_ONE_HOT = np.eye(BINS)
_LOW = np.array((0.0, *EDGES))
_LEVELS = np.array(LEVELS)


@dataclass(frozen=True)
class Arm:
    """A split and which early exits (by their number) are evaluated on the way."""

    split: int
    exits: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """An arm with a codec and the thresholds its scene's risk allows.

    ``stops`` is the expected share of frames each of the arm's exits answers, ``rest`` that of the
    others, ``risk`` the expected disagreement; ``kept`` tells whether the promise allows it.
    """

    arm: Arm
    codec: str
    thresholds: tuple[float | None, ...]
    stops: tuple[float, ...]
    rest: float
    risk: float
    kept: bool


@dataclass(frozen=True)
class _Promise:
    """What the promise leaves to a scene from here on.

    ``accounts`` are answers and expected disagreements so far: the scene's own, and over all
    scenes. ``slack`` may be lost until what was overdrawn has to be paid back; ``bearable`` (L,)
    tells which levels are.
    """

    target: float
    z: float
    accounts: tuple[tuple[float, float], ...]
    slack: float
    bearable: NDArray[np.bool_]

    @classmethod
    def of(cls, risk: SceneRisk, others: tuple[float, float], target: float, z: float) -> _Promise:
        """That of a scene, beside what all ``others`` have answered and lost."""
        answers, spent = risk.answers, risk.spent()
        # Before a stream has shown how sure its exits are, no single answer may be much worse than
        # the target: that holds whatever the stream is like.
        known = sum(map(sum, risk.first)) >= _FIRST_LOOK
        return cls(
            target, z, ((answers, spent), (answers + others[0], spent + others[1])),
            target * (answers + REPAY) - spent,
            np.full(len(LEVELS), True) if known else 2 * target >= _LEVELS,
        )  # fmt: skip

    def allows(self, total: Floats, variance: Floats) -> NDArray[np.bool_]:
        """Which levels keep it that lead to a share of ``total`` (L,) with this ``variance``."""
        allowed = self.bearable & (total * REPAY <= self.slack)
        own = self.accounts[0][0]
        for answers, spent in self.accounts:
            horizon = max(HORIZON, answers + AHEAD)
            # The share of all answers so far and of those until the horizon.
            share_then = (spent + total * (horizon - answers)) / horizon
            chance = CLUSTER * share_then / horizon
            # What is not known of this scene's curves is not known of its own answers only.
            here = (horizon - (answers - own)) / horizon
            keeps = share_then + self.z * np.sqrt(here**2 * variance + chance) <= self.target
            # What other scenes have overdrawn must not end all early answers in this one.
            allowed &= keeps if answers == own else keeps | (total <= self.target / 10)
        return allowed


@dataclass(frozen=True)
class _Passed:
    """What a sample's frames do at some exits, at each of L risk levels.

    ``levels`` (L, E) is the first bin of each exit that answers, ``stops`` (L, exits) the share of
    frames that do, ``rest`` (L,) that of the others, ``left`` (L, B) the latter by the deepest
    exit's bin, ``expected`` and ``variance`` (L,) the share of wrong answers; ``seen`` tells
    whether there were frames at all.
    """

    levels: Bins
    stops: Floats
    rest: Floats
    expected: Floats
    variance: Floats
    left: Floats
    seen: bool


class Search:
    """Finds the candidates of a scene.

    ``late`` (E,) is what :func:`after_others` says, ``z`` the number of standard deviations of the
    margin that the promise is given.
    """

    def __init__(
        self, facts: Facts, early: tuple[int, ...], late: Floats, *, all_local: bool, z: float
    ) -> None:
        self._facts = facts
        self._early = early
        self._z = z
        self._arms = _arms(facts, early, all_local)
        self._late = late
        # How much more often than the mildest each codec changes an answer.
        self.harm = {split: _harm(facts.codings[split]) for split in facts.splits}

    def __call__(
        self, risk: SceneRisk, coding: Mapping[int, Coded], bins: Bins, weights: Floats,
        target: float, others: tuple[float, float],
    ) -> list[Candidate]:  # fmt: skip
        """Every arm with each of its codecs, by what is known of a scene.

        ``bins`` (N, E) are frames of the scene, -1 where an exit was not evaluated, and ``weights``
        (N,) what each stands for. ``others`` are answers and expected disagreements of all other
        scenes: the promise is kept in this scene and over all.
        """
        promise = _Promise.of(risk, others, target, self._z)
        alone, late = risk.levels(np.ones(len(self._late))), risk.levels(1 / self._late)
        # Arms that differ in their split alone leave the same frames to the others.
        passed: dict[tuple[int, ...], _Passed] = {}
        found: list[Candidate] = []
        for arm in self._arms:
            if arm.exits not in passed:
                levels = late.copy()
                levels[:, arm.exits[:1]] = alone[:, arm.exits[:1]]
                usable = (bins[:, list(arm.exits)] >= 0).all(axis=1)
                passed[arm.exits] = self._passed(
                    arm.exits, risk, levels, bins[usable], weights[usable]
                )
            found += self._tried(arm, passed[arm.exits], coding, promise)
        return found

    def _passed(
        self, exits: tuple[int, ...], risk: SceneRisk, levels: Bins, bins: Bins, weights: Floats
    ) -> _Passed:
        """What a sample's frames do at these exits, one after the other."""
        count = len(levels)
        stops = np.zeros((count, len(exits)))
        expected, variance, left = np.zeros(count), np.zeros(count), np.zeros((count, BINS))
        if len(bins):
            rows = np.arange(len(bins))
            share = weights / weights.sum()
            alive = np.ones((count, len(bins)), np.float32)
            for i, exit_ in enumerate(exits):
                column = bins[:, exit_]
                stop = alive * (column >= levels[:, exit_, None])
                alive -= stop
                shares = np.zeros((len(bins), BINS), np.float32)
                shares[rows, column] = share
                mass = stop @ shares
                stops[:, i] = mass.sum(1)
                likelier = self._late[exit_] if i else 1.0
                expected += likelier * (mass @ risk.curve[exit_])
                variance += likelier**2 * (mass**2 @ risk.variance[exit_])
            variance += risk.doubt * expected**2
            if exits:
                left = (alive * share) @ _ONE_HOT[bins[:, exits[-1]]]
        # That no frame of the sample is left to the others does not mean that none ever is.
        rest = np.clip(1 - stops.sum(1), _LEAST, 1)
        return _Passed(levels, stops, rest, expected, variance, left, seen=len(bins) > 0)

    def _tried(
        self, arm: Arm, passed: _Passed, coding: Mapping[int, Coded], promise: _Promise
    ) -> list[Candidate]:
        """An arm with each of its codecs at the lowest thresholds allowed."""
        final = arm.split == self._facts.final
        changed = doubt = np.zeros(len(passed.rest))
        if not final:
            mean, uncertain = coding[arm.split]
            changed, doubt = passed.left @ mean, passed.left**2 @ uncertain
        codings = {'': 0.0} if final else self.harm[arm.split]
        found = []
        for name, factor in codings.items():
            total = passed.expected + factor * changed
            allowed = promise.allows(total, passed.variance + factor**2 * doubt)
            if not passed.seen:
                # How confident the exits of this scene are was never seen: none may answer.
                allowed[1:] = False
            # Never to answer at an early exit on the robot adds no risk at all.
            allowed[0] |= final
            levels = np.flatnonzero(allowed)
            level = int(levels[-1]) if len(levels) else 0
            found.append(
                Candidate(
                    arm, name, self._thresholds(arm, passed.levels[level]),
                    tuple(passed.stops[level].tolist()), float(passed.rest[level]),
                    float(total[level]), len(levels) > 0,
                )
            )  # fmt: skip
        return found

    def _thresholds(self, arm: Arm, level: NDArray[np.int64]) -> tuple[float | None, ...]:
        thresholds: list[float | None] = [None] * len(self._facts.macs)
        for exit_ in arm.exits:
            thresholds[self._early[exit_]] = threshold_of(int(level[exit_]))
        if arm.split == self._facts.final:
            thresholds[arm.split] = 0.0
        return tuple(thresholds)


def _arms(facts: Facts, early: tuple[int, ...], all_local: bool) -> list[Arm]:
    """Every split with its deepest exit and up to two before it; at the end, any of them."""
    arms = []
    for split in facts.splits:
        below = [i for i, stage in enumerate(early) if stage <= split]
        for size in range(min(3, len(below))):
            arms += [Arm(split, (*chosen, below[-1])) for chosen in combinations(below[:-1], size)]
    if all_local or not arms:
        for size in range(min(3, len(early)) + 1):
            arms += [Arm(facts.final, chosen) for chosen in combinations(range(len(early)), size)]
    return arms


def _harm(codings: Mapping[str, Coding]) -> dict[str, float]:
    """How much more often each codec changes an answer than the mildest; those worth a look.

    A codec that needs more bytes and changes more answers than another is left out.
    """
    mildest = min(coding.disagreement for coding in codings.values())
    kept: dict[str, float] = {}
    least = float('inf')
    for name, coding in sorted(codings.items(), key=lambda i: (i[1].bytes, i[1].disagreement)):
        harm = coding.disagreement
        if harm < least:
            least = harm
            kept[name] = harm / mildest if mildest > 0 else 1.0 + 100 * harm
    return kept


def histogram(sample: Sample) -> NDArray[np.float64]:
    """(2, E, B) frames and disagreements per exit and bin."""
    bins = bins_of(sample.confidence)
    counts = np.zeros((2, bins.shape[1], BINS))
    for exit_ in range(bins.shape[1]):
        counts[0, exit_] = np.bincount(bins[:, exit_], minlength=BINS)
        counts[1, exit_] = np.bincount(bins[:, exit_], sample.differs[:, exit_], minlength=BINS)
    return counts


def starting_curve(calibration: Calibration, exits: int) -> NDArray[np.float64]:
    """(E, B) the curve to start from: calibration of all scenes on top of "confidence is right".

    An exit is calibrated when 1 − confidence is its error; it may be twice as wrong elsewhere.
    """
    prior = np.tile(np.clip(2.0 * (1 - _LOW), 0.02, 0.95), (exits, 1))
    counts = np.zeros((2, exits, BINS))
    for sample in calibration.scenes.values():
        counts += histogram(sample)
    weights = counts[0] + 10.0
    mean = (counts[1] + 10.0 * prior) / weights
    return np.stack([falling(mean[e], weights[e]) for e in range(exits)]) if exits else prior


def after_others(calibration: Calibration, curve: Floats) -> Floats:
    """(E,) how much likelier an exit is to differ when an earlier one was not sure enough.

    ``curve`` says P(differs | confidence) of all frames. Those that an earlier exit has left to
    this one are the harder ones, and at the same confidence more often wrong: the share of wrong
    answers over the expected one, at some levels of risk, beside what it is for all frames; at
    least 1.
    """
    exits = len(curve)
    late = np.ones(exits)
    samples = calibration.scenes.values()
    if not samples or not exits:
        return late
    bins = bins_of(np.concatenate([sample.confidence for sample in samples]))
    differs = np.concatenate([sample.differs for sample in samples])
    risk = np.stack([curve[exit_][bins[:, exit_]] for exit_ in range(exits)], 1)
    for exit_ in range(1, exits):
        for before in range(exit_):
            wrong = expected = 0.0
            for level in (0.02, 0.05, 0.15):
                sure = risk[:, exit_] <= level
                left = sure & (risk[:, before] > level)
                usual = (differs[sure, exit_].sum() + 1) / (risk[sure, exit_].sum() + 1)
                wrong += differs[left, exit_].sum()
                expected += usual * risk[left, exit_].sum()
            late[exit_] = max(late[exit_], min((wrong + 5) / (expected + 5), 3.0))
    return late


def coding_curves(
    facts: Facts, early: tuple[int, ...], calibration: Calibration, scene: str
) -> dict[int, Coded]:
    """Split -> (2, B) mean and variance of P(coding changes the tail's answer | bin).

    The bin is that of the deepest exit before the split. Coding hurts where the network is unsure,
    which is where frames are sent. Without calibration all of what coding changes is taken to be
    among the doubtful frames, one in ten. Calibration of ``scene`` itself counts in full, that of
    the other scenes as much as a scene's that was never seen.
    """
    found = {}
    for split in facts.splits:
        overall = min(item.disagreement for item in facts.codings[split].values())
        exit_ = max(i for i, stage in enumerate(early) if stage <= split)
        prior = np.clip(overall * np.clip(20 * (1 - _LOW), 0.1, 10.0), 1e-5, 0.5)
        known, changed = np.full(BINS, 0.5), 0.5 * prior
        if split in calibration.splits:
            column = calibration.splits.index(split)
            others, own = np.zeros((2, BINS)), np.zeros((2, BINS))
            for name, sample in calibration.scenes.items():
                bins = bins_of(sample.confidence[:, exit_])
                counts = own if name == scene else others
                counts += [
                    np.bincount(bins, minlength=BINS),
                    np.bincount(bins, sample.coded[:, column], minlength=BINS),
                ]
            for counts, worth in ((others, FOREIGN_WORTH), (own, CALIBRATION_WORTH)):
                scale = calibration_scale(counts[0].sum(), worth)
                known, changed = known + scale * counts[0], changed + scale * counts[1]
        mean = falling(changed / known, known)
        found[split] = np.stack([mean, mean * (1 - mean) / (known + 1)])
    return found
