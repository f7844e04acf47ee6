# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How sure is sure enough: thresholds that keep disagreement with the full network below a target.

The promise is on P(answer ≠ what the full, uncompressed network would say) over LOCAL and OFFBOARD
answers, per scene. Three things keep it:

* **Curves.** For every scene and exit, P(disagree | confidence) in bins, from calibration data and
  from every answer the tail gives: offloaded frames below the threshold, audits above it. Given
  the confidence, whether a frame was sent is chance alone, so the curve needs no weighting. It is
  made monotone, and raised everywhere by as much as live answers show calibration to be too
  hopeful where they came; its uncertainty is that of a Beta posterior, with frames of one track
  counted as the few independent observations they are.
* **A margin.** A threshold is allowed when the share it leads to by the horizon (a scene's answer
  2,000, later always some hundred ahead), what coding alone changes included, plus z standard
  deviations stays below the target, in the scene and over all scenes: of each bin of the curve,
  of the curve as a whole, of streams that are unlike others of their scene, and of chance, which
  is larger where wrong answers come in runs. What was overdrawn, as the curve is known now, is
  paid back within a few hundred frames.
* **A watch.** Every answer of the tail is also a bet against the curve: a likelihood ratio for "the
  odds are several times what the curve and its uncertainty admit". Its running product is a
  supermartingale while the curve holds, whenever one looks (Waudby-Smith and Ramdas, JRSS B 86,
  2024; an e-detector: Shin, Ramdas and Rinaldo, 2022), so an alarm at 1/δ is false at most once in
  1/δ answers. An alarm forgets what was learned, raises the curve and asks for more audits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.policy.facts import NEVER
from sparse_split_ros.policy.plan import PolicyError
from sparse_split_ros.policy.watch import Objects

Floats = NDArray[np.float64]

# Confidence bins: finer towards 1, where thresholds are.
EDGES = (
    0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.88, 0.90, 0.92, 0.94, 0.955, 0.97, 0.98,
    0.9865, 0.99, 0.9933, 0.9966, 0.998, 0.999, 0.9995, 0.9998,
)  # fmt: skip
BINS = len(EDGES) + 1
# Risk levels: a threshold is where the curve falls below one of these. The first never answers.
LEVELS = (0.0, *(float(x) for x in np.geomspace(5e-4, 0.4, 19)))

# The promise is looked at from so many answers of a scene on, and always this far ahead.
HORIZON = 2000.0
AHEAD = 500.0
# Wrong answers come in runs, of one object: the variance of their number is so many times that of
# independent ones: on selection tracks 1 to 10, more where more is wrong.
CLUSTER = 6.0
# Relative variance between streams of one scene, at the same confidence (light rain, heavy rain).
UNLIKE = 0.04
# What was overdrawn is paid back within so many frames.
REPAY = 300.0
# Frames of one object fail together: so many count as one. A track of GTSRB has about 30.
DESIGN = 15.0
# What calibration of a scene is worth beside live answers, in independent frames: at most so many,
# one in four (they are drawn at random out of many tracks), and when it is another scene's.
CALIBRATION_WORTH = 100.0
CALIBRATION_DESIGN = 4.0
FOREIGN_WORTH = 4.0
# Live evidence per scene is faded to half above this, so that what is old can be outlived.
_MEMORY = 400.0
_PRIOR = 4.0
# So many of the newest answers are kept after an alarm.
NEWEST = 48
# And what is known of how sure the exits are above this.
_MIX_MEMORY = 4000.0
# Live errors must exceed the expected ones by this much to double what is feared elsewhere.
_DOUBT = 2.0


def bin_of(confidence: float) -> int:
    """The bin of a confidence in [0, 1]."""
    return bisect_right(EDGES, confidence)


def threshold_of(bin_: int) -> float:
    """The threshold that a confidence reaches exactly when its bin is ``bin_`` or higher."""
    return NEVER if bin_ >= BINS else EDGES[bin_ - 1] if bin_ else 0.0


@dataclass(frozen=True)
class Sample:
    """Calibration frames of one scene, N of them.

    ``confidence`` (N, E) in [0, 1] of the E exits before the last, ``differs`` (N, E) whether their
    answers differ from the full network's, ``coded`` (N, S) whether the tail's answers to features
    coded at each of the S splits do; S is 0 where that was not measured.
    """

    confidence: Floats
    differs: NDArray[np.bool_]
    coded: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.confidence)
        shapes = (self.confidence.shape, self.differs.shape, self.coded.shape)
        if not count or shapes[0] != shapes[1] or {len(shape) for shape in shapes} != {2}:
            raise PolicyError(f'calibration columns {shapes}, expected (N, E), (N, E), (N, S)')
        if len(self.coded) != count:
            raise PolicyError(f'calibration of {count} frames has {len(self.coded)} coded ones')
        # NaN fails both comparisons.
        if self.confidence.size and not (self.confidence.min() >= 0 and self.confidence.max() <= 1):
            raise PolicyError('calibration has confidences outside [0, 1]')


@dataclass(frozen=True)
class Calibration:
    """What the exits said of calibration frames, by scene; ``splits`` names the coded columns."""

    scenes: Mapping[str, Sample]
    splits: tuple[int, ...] = ()

    def thinned(self, rows: int, seed: int = 0) -> Calibration:
        """At most this many random frames per scene."""
        rng = np.random.default_rng(seed)
        scenes = {}
        for name, sample in self.scenes.items():
            chosen = rng.permutation(len(sample.confidence))[:rows]
            scenes[name] = Sample(
                sample.confidence[chosen], sample.differs[chosen], sample.coded[chosen]
            )
        return Calibration(scenes, self.splits)

    def to_json(self) -> dict[str, Any]:
        """Per scene one row per frame: bins, as −1 − bin where the exit differs, then coded 0/1."""
        scenes = {}
        for name, sample in self.scenes.items():
            bins = bins_of(sample.confidence)
            rows = np.hstack([np.where(sample.differs, -1 - bins, bins), sample.coded])
            scenes[name] = rows.astype(int).tolist()
        return {'edges': list(EDGES), 'splits': list(self.splits), 'scenes': scenes}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Read :meth:`to_json`; confidences come back as their bins' middles."""
        middles = np.array([(a + b) / 2 for a, b in zip((0.0, *EDGES), (*EDGES, 1.0))])
        try:
            if value['edges'] != list(EDGES):
                raise PolicyError('calibration has other bins than this release: make it again')
            splits = tuple(int(split) for split in value['splits'])
            scenes = {}
            for scene, rows in value['scenes'].items():
                table = np.asarray(rows, np.int64)
                coded = table[:, : table.shape[1] - len(splits)]
                bins = np.where(coded < 0, -1 - coded, coded)
                tail = table[:, table.shape[1] - len(splits) :] != 0
                scenes[str(scene)] = Sample(middles[bins], coded < 0, tail)
        except (
            AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError
        ) as error:  # fmt: skip
            if isinstance(error, PolicyError):
                raise
            raise PolicyError(f'not a calibration: {error!r}') from error
        return cls(scenes, splits)


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """:func:`bin_of` for arrays."""
    return np.searchsorted(np.asarray(EDGES), confidence, side='right').astype(np.int64)


def falling(values: Floats, weights: Floats) -> Floats:
    """The closest non-increasing sequence, weighted least squares: pool adjacent violators."""
    blocks: list[list[float]] = []
    for value, weight in zip(values.tolist(), weights.tolist()):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            v, w, n = blocks.pop()
            u = blocks[-1]
            u[0] = (u[0] * u[1] + v * w) / (u[1] + w)
            u[1] += w
            u[2] += n
    return np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])


def calibration_scale(frames: float, worth: float) -> float:
    """What one of so many calibration frames is worth, all of them at most ``worth``."""
    return min(1 / CALIBRATION_DESIGN, worth / max(frames, 1.0))


@dataclass(slots=True)
class Labelled:
    """A frame whose full answer is known: ``bins`` and ``differs`` per exit, −1 for unknown bins.

    ``weight`` is 1 over the probability that it was chosen to be known, ``coding`` the share of
    answers that the coding of its features changes.
    """

    bins: list[int]
    differs: list[bool]
    weight: float
    coding: float = 0.0


@dataclass(frozen=True)
class Learnt:
    """What the tail's answers changed in a SceneRisk."""

    counts: list[list[float]]
    errors: list[list[float]]
    scale: float
    caution: float


def _scale(rows: Sequence[list[float]], factor: float) -> None:
    for row in rows:
        row[:] = [factor * value for value in row]


class SceneRisk:
    """What is known of one scene."""

    def __init__(self, exits: int, prior: Floats, calibration: Floats, scale: float) -> None:
        """``prior`` (E, B) the shape of the curve; ``calibration`` (2, E, B) counts and errors.

        ``scale`` is what one frame of calibration is worth.
        """
        self.exits = exits
        self._prior = prior
        self._calibration = calibration
        self.scale = scale
        self.counts = [[0.0] * BINS for _ in range(exits)]
        self.errors = [[0.0] * BINS for _ in range(exits)]
        # Odds are multiplied by this after an alarm, until what comes next says otherwise.
        self.caution = 1.0
        self.curve = prior.copy()
        self.variance = np.zeros_like(prior)
        # Relative variance that all of the curve shares.
        self.doubt = 1.0
        # P(disagree) for the watch, as lists: it is looked up once per answer.
        self.upper: list[list[float]] = []
        # What was answered so far: local answers by exit and bin, each as many times as it is more
        # likely to be wrong than the curve says; all answers; coding's cost.
        self.local = [[0.0] * BINS for _ in range(exits)]
        # How sure the first exit of every frame was, whatever became of the frame.
        self.first = [[0.0] * BINS for _ in range(exits)]
        self.answers = 0.0
        self.coding = 0.0
        self.evidence = 0.0
        # By camera.
        self._objects: defaultdict[int, Objects] = defaultdict(Objects)
        self.recent: deque[Labelled] = deque(maxlen=NEWEST)
        self.fit()

    def learn(self, row: Labelled) -> None:
        """The tail's word on one frame, less what coding alone would make it differ.

        It counts as much as it is independent of the others: audits are far apart.
        """
        chosen = 1 / row.weight if row.weight > 0 else 1.0
        evidence = 1 / (1 + (DESIGN - 1) * chosen)
        for exit_, bin_ in enumerate(row.bins):
            if bin_ >= 0:
                self.counts[exit_][bin_] += evidence
                self.errors[exit_][bin_] += evidence * (row.differs[exit_] - row.coding)

    def watch(self, row: Labelled, own: int, said: int, odds: float, source: int = 0) -> float:
        """Bet on one frame, by the deepest exit that saw it; the log evidence of a change.

        ``own`` is that exit's class, ``said`` the tail's and ``source`` the camera. Frames of one
        object fail together: the k-th of an object is bet on with the power 1/k², which keeps a
        supermartingale.
        """
        place = self._objects[source].place(own, said)
        for exit_ in range(self.exits - 1, -1, -1):
            bin_ = row.bins[exit_]
            if bin_ < 0:
                continue
            p = self.upper[exit_][bin_]
            q = odds * p / (1 - p + odds * p)
            step = math.log(q / p) if row.differs[exit_] else math.log((1 - q) / (1 - p))
            self.evidence = max(0.0, self.evidence) + step / place**2
            break
        return self.evidence

    def fade(self, share: float) -> None:
        """Keep this share of all live evidence."""
        _scale((*self.counts, *self.errors), share)

    def settle(self) -> None:
        """Begin a new account: credit and debt are of the promise that was."""
        _scale(self.local, 0.0)
        self.answers = self.coding = 0.0

    def shifted(self) -> None:
        """Exits have become more or less sure than they were: forget how sure that was."""
        _scale(self.first, 0.05)

    def alarm(self) -> None:
        """The curve no longer holds: forget, keep only the newest answers, be cautious."""
        self.fade(0.05)
        self.scale *= 0.1
        for row in self.recent:
            self.learn(row)
        self.shifted()
        self.caution = 4.0
        self.evidence = 0.0
        self.fit()

    def learned(self) -> Learnt:
        """A copy of what the tail's answers made of this scene."""
        counts, errors = [row[:] for row in self.counts], [row[:] for row in self.errors]
        return Learnt(counts, errors, self.scale, self.caution)

    def unlearn(self, before: Learnt) -> None:
        """Go back to :meth:`learned`."""
        self.counts = [row[:] for row in before.counts]
        self.errors = [row[:] for row in before.errors]
        self.scale, self.caution, self.evidence = before.scale, before.caution, 0.0
        self.recent.clear()
        self.fit()

    def fit(self) -> None:
        """Curves, their variance and the watch's null from all counts."""
        shape = (self.exits, BINS)
        counts = np.array(self.counts).reshape(shape)
        errors = np.array(self.errors).reshape(shape)
        if counts.sum() > _MEMORY * self.exits:
            self.fade(0.5)
        if sum(map(sum, self.first)) > _MIX_MEMORY:
            _scale(self.first, 0.5)
        # What was known before any live answer, and how far off it is where those have come.
        base = self.scale * self._calibration[0] + _PRIOR
        known = (self.scale * self._calibration[1] + _PRIOR * self._prior) / base
        live, wrong = counts, np.maximum(errors, 0.0)
        worse = (wrong.sum(1) + _DOUBT) / ((live * known).sum(1) + _DOUBT)
        odds = self.caution * np.clip(worse, 1.0, 5.0)[:, None]
        known = odds * known / (1 - known + odds * known)
        effective = live + base
        mean = (wrong + base * known) / effective
        for exit_ in range(self.exits):
            self.curve[exit_] = falling(mean[exit_], effective[exit_])
        self.curve = np.clip(self.curve, 1e-5, 0.995)
        self.variance = self.curve * (1 - self.curve) / (effective + 1)
        # All bins may be wrong together: the fewer errors are known, the more so.
        errors_known = (self.curve * effective).sum() / max(self.exits, 1)
        self.doubt = UNLIKE + 1 / max(errors_known, 1.0)
        self.upper = np.clip(self.curve + np.sqrt(self.variance), 2e-3, 0.9).tolist()

    def levels(self, worth: Floats) -> NDArray[np.int64]:
        """(G, E) the first bin of each exit whose curve is at most each of LEVELS times ``worth``.

        ``worth`` (E,) is how much of a level's risk each exit is allowed.
        """
        below = self.curve[None] <= np.array(LEVELS)[:, None, None] * worth[:, None]
        first = np.where(below.any(2), below.argmax(2), BINS)
        first[0] = BINS
        return first

    def spent(self) -> float:
        """Expected disagreements so far, by the curve as it is known now."""
        local = np.array(self.local).reshape(self.curve.shape)
        return self.coding + float(np.sum(local * self.curve))
