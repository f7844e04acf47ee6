# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the joint policy keeps apart by scene, in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_split_ros.policy.candidates import Bins, Candidate, Coded
from sparse_split_ros.policy.plan import PolicyError
from sparse_split_ros.policy.risk import (
    BINS,
    CALIBRATION_DESIGN,
    NEWEST,
    Floats,
    Labelled,
    Learnt,
    SceneRisk,
)
from sparse_split_ros.policy.state import MOST
from sparse_split_ros.policy.watch import PageHinkley

# When a new scene's thresholds are found anew, in frames of it.
FIRST_REFRESHES = (20, 50, 100, 175)
_SAMPLE = 512
# What calibration knows of how sure the exits will be is worth so many live frames.
_MIX_WORTH = 100.0
# Old calibration counts half when live frames stand for so many.
_FADE = 2000.0
_COLUMNS = ('counts', 'errors', 'local', 'first')
_NUMBERS = ('answers', 'coding', 'scale', 'caution')
_PROGRESS = ('seen', 'labelled')


class SceneState:
    """Everything kept for one scene.

    ``bins`` (N, E) and ``weights`` (N,) are calibration frames and what each stands for, ``coding``
    what coding changes at each split.
    """

    def __init__(
        self,
        risk: SceneRisk,
        bins: Bins,
        weights: Floats,
        coding: Mapping[int, Coded],
    ) -> None:
        self.risk = risk
        self.coding = coding
        # Its mean per split and bin, as lists: it is looked up once per frame.
        self.changed = {split: coded[0].tolist() for split, coded in coding.items()}
        self.base = bins
        self.base_weights = weights
        exits = bins.shape[1]
        self.live = np.full((_SAMPLE, exits), -1, np.int64)
        self.live_weights = np.zeros(_SAMPLE)
        self.filled = 0
        self.seen = 0
        # Answers whose truth is known; a scene with calibration starts as if it had enough.
        self.labelled = 0
        self.looking = False
        self.due = FIRST_REFRESHES[0]
        self.candidates: list[Candidate] = []
        # Those that can be the cheapest on some link.
        self.contenders: list[tuple[Candidate, float, float]] = []
        # The share of frames its last plan is expected to answer early, None until one is made.
        self.stopping: float | None = None
        self.shift = PageHinkley(slack=0.2, limit=40.0)
        # Two generations of counts, both from when nothing spoke against the tail: the older is
        # from before a poisoning even where chance has cleared it once.
        self.checkpoints: list[Learnt] = []

    def add(self, row: Labelled) -> None:
        """A live frame, by its weight, for the sample."""
        if row.weight <= 0:
            return
        at = self.filled % _SAMPLE
        self.live[at] = row.bins
        self.live_weights[at] = row.weight
        self.filled += 1

    def _newest(self, count: int) -> Bins:
        """Where the last ``count`` live frames lie, oldest first."""
        return np.arange(max(0, self.filled - count), self.filled) % _SAMPLE

    def forget(self) -> None:
        """Keep only the newest live frames."""
        rows = self._newest(NEWEST)
        count = self.filled = len(rows)
        self.live[:count], self.live_weights[:count] = self.live[rows], self.live_weights[rows]

    def sample(self) -> tuple[Bins, Floats]:
        """Bins (N, E), −1 where unknown, and weights (N,)."""
        count = min(self.filled, _SAMPLE)
        base = self.base_weights
        if count:
            # What live frames know of fades what calibration assumed.
            base = base / (1 + self.live_weights[:count].sum() / _FADE)
        bins = np.concatenate([self.base, self.live[:count]])
        weights = np.concatenate([base, self.live_weights[:count]])
        # Most frames are alike: the same bins at every exit. Each kind is tried once.
        key = np.zeros(len(bins), np.int64)
        for column in bins.T:
            key = key * (BINS + 2) + column + 1
        _, first, kind = np.unique(key, return_index=True, return_inverse=True)
        mass: Floats = np.bincount(kind, weights, len(first)).astype(np.float64)
        return self._as_seen(bins[first], mass)

    def _as_seen(self, bins: Bins, mass: Floats) -> tuple[Bins, Floats]:
        """The sample made to look like the stream (post-stratification).

        Few frames are labelled, but how sure its first exit was is known of every frame: rows are
        weighted so that this exit's bins are as frequent as they were seen to be.
        """
        seen = np.array(self.risk.first)
        if not seen.any():
            return bins, mass
        exit_ = int(seen.sum(1).argmax())
        known = bins[:, exit_] >= 0
        if not known.any():
            return bins, mass
        bins, mass = bins[known], mass[known]
        expected = np.bincount(bins[:, exit_], mass, BINS)
        if not expected.any():
            return bins, mass
        wanted = _MIX_WORTH * expected / expected.sum() + seen[exit_]
        return bins, mass * (wanted / np.maximum(expected, 1e-12))[bins[:, exit_]]

    def to_json(self) -> dict[str, Any]:
        """What was learned; a copy."""
        risk, rows = self.risk, self._newest(_SAMPLE)
        return {
            **{name: [row[:] for row in getattr(risk, name)] for name in _COLUMNS},
            **{name: getattr(risk, name) for name in _NUMBERS},
            **{name: getattr(self, name) for name in _PROGRESS},
            'live': self.live[rows].tolist(),
            'weights': self.live_weights[rows].tolist(),
        }

    def take(self, saved: Saved) -> None:
        """Go on where a saved scene stopped."""
        risk = self.risk
        for name, column in zip(_COLUMNS, saved.columns):
            setattr(risk, name, column.tolist())
        for name, number in zip(_NUMBERS, saved.numbers):
            setattr(risk, name, number)
        count = len(saved.live)
        self.live[:count], self.live_weights[:count] = saved.live, saved.weights
        self.filled = count
        self.seen = int(saved.seen)
        self.labelled = max(self.labelled, int(saved.labelled))


class Saved:
    """A scene as read from JSON, checked.

    Raises PolicyError, KeyError, OverflowError, TypeError, ValueError.
    """

    def __init__(self, name: str, item: Mapping[str, Any], exits: int) -> None:
        # These came after the others: what was saved before them goes on from nothing there.
        blank: dict[str, Any] = {'first': np.zeros((exits, BINS)), 'seen': 0, 'labelled': 0}
        item = blank | dict(item)
        # Without early exits a column is an empty list, which has no width of its own.
        self.columns = [
            np.asarray(item[key], float).reshape(len(item[key]), BINS) for key in _COLUMNS
        ]
        if any(c.shape != (exits, BINS) or not np.isfinite(c).all() for c in self.columns):
            raise PolicyError(f'saved state of scene {name!r} has the wrong shape')
        live = item['live']
        self.live = np.asarray(live, np.int64).reshape(len(live), exits)[:_SAMPLE]
        self.weights = np.asarray(item['weights'], float)[:_SAMPLE]
        self.numbers = [float(item[key]) for key in _NUMBERS]
        self.seen, self.labelled = (float(item[key]) for key in _PROGRESS)
        counts, errors, local, first = self.columns
        # What a scene knows of the truth is at least what its counts, which fade, still hold.
        self.labelled = max(self.labelled, counts.sum(1).max(initial=0.0))
        _, _, scale, caution = self.numbers
        numbers = np.array([*self.numbers, self.seen, self.labelled])
        # NaN fails every comparison.
        sound = all(
            ((values >= 0) & (values <= MOST)).all()
            for values in (counts, local, first, self.weights, numbers)
        )
        sound = sound and bool((abs(errors) <= counts + 1e-6).all())
        sound = sound and scale <= 1 / CALIBRATION_DESIGN and 1 <= caution <= 4
        if not sound or self.weights.shape != (len(self.live),):
            raise PolicyError(f'saved state of scene {name!r} holds impossible numbers')
        if self.live.size and (self.live.min() < -1 or self.live.max() >= BINS):
            raise PolicyError(f'saved state of scene {name!r} holds impossible bins')
