# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps watch: the budget of audits, poisoned feedback, shifts, and frames of one object."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sparse_split_ros.policy.plan import PolicyError

# A tail that is not believed is asked this often at least: nothing else can clear it.
_RECHECK = 0.005


class Budget:
    """Audits: at most ``share`` of all frames on average, ``burst`` for ``length`` after a change.

    In quiet times a quarter of the share is spent and the rest saved, up to what one burst costs; a
    burst may overdraw by as much, and is paid back before the next.
    """

    def __init__(self, share: float = 0.02, burst: float = 0.10, length: int = 500) -> None:
        if not 0 <= share <= burst <= 1:
            raise PolicyError(f'audit budget {share}, burst {burst}: expected 0 <= both <= 1')
        self.share = share
        self.burst = burst
        self.length = length
        # How much may be saved, and overdrawn.
        self._limit = (burst - share) * length
        self._left = 0
        self._balance = 0.0

    def changed(self) -> None:
        """A change was detected."""
        self._left = self.length

    def next(self) -> float:
        """The audit probability of the next frame."""
        probability = self.share / 4
        if self._left > 0:
            self._left -= 1
            if self._balance > -self._limit:
                probability = self.burst
        self._balance = min(self._limit, self._balance + self.share - probability)
        return probability

    def recheck(self) -> float:
        """The share of frames that ask a tail which is not believed, whatever ``share`` says."""
        probability = max(self.share, _RECHECK)
        self._balance = max(-self._limit, self._balance + self.share - probability)
        return probability


class Objects:
    """Which frames show the same object, guessed from the classes robot and tail give them.

    A frame belongs to the object before it when the robot gave it one of the last three classes
    that it gave to that, or the one the tail just gave. Tracks are not known to a policy, and one
    object's two or three candidate classes alternate. What the tail said longer ago does not count:
    one that guesses has soon named every class of a few. Each camera sees objects of its own.
    """

    def __init__(self) -> None:
        self._classes: list[int] = []
        self._said = -1
        self._place = 0

    def place(self, own: int, said: int) -> int:
        """The frame's number within its object, from 1."""
        known = own in self._classes or own == self._said
        if known or (said == self._said and len(self._classes) < 2):
            self._place += 1
        else:
            self._classes.clear()
            self._place = 1
        if own not in self._classes:
            self._classes = [*self._classes[-2:], own]
        self._said = said
        return self._place


@dataclass
class _Run:
    """What a camera shows: the answers of its object so far, agreed on and expected to be."""

    objects: Objects = field(default_factory=Objects)
    answers: int = 0
    agreed: int = 0
    expected: float = 0.0


class FeedbackCheck:
    """Whether the tail's answers have to do with the frames they answer.

    A tail that guesses, always says the same, or replays old answers agrees with the robot's own
    exits only by chance, however hard the scene. Frames of one sign hang together, so what is
    counted are runs of answers in which the robot's own class stays the same: one vote each. The
    votes' likelihood ratio, chance against what the curves expect, is summed from 0 upwards (Page).
    """

    _CHANCE = 0.1
    _ALARM = math.log(1e4)
    _RELIEF = math.log(1e3)

    def __init__(self) -> None:
        self.poisoned = False
        self.reason = ''
        # The run that is still open, by camera.
        self._runs: dict[int, _Run] = {}
        self._evidence = 0.0
        # Objects, and those agreed on, since the evidence began to gather.
        self._votes = [0, 0]

    @property
    def clear(self) -> bool:
        """Whether nothing speaks against the tail, the objects still in view included."""
        agreed = all(2 * run.agreed >= run.answers for run in self._runs.values())
        return agreed and not self.poisoned and not self._evidence

    def add(self, said: int, own: int, expected: float, source: int = 0) -> bool:
        """The tail said class ``said``, the robot's deepest exit ``own``; whether it is poisoned.

        ``expected`` is how likely the curve takes them to agree, ``source`` the camera.
        """
        run = self._runs.get(source)
        if run is None:
            run = self._runs[source] = _Run()
        if run.objects.place(own, said) == 1 and run.answers:
            self._close(run.agreed / run.answers, run.expected / run.answers)
            run.answers, run.agreed, run.expected = 0, 0, 0.0
        run.answers += 1
        run.agreed += said == own
        run.expected += expected
        return self.poisoned

    def _close(self, agreed: float, expected: float) -> None:
        vote = agreed >= 0.5
        honest = min(max(expected, 0.15), 0.9)
        chance = self._CHANCE
        step = math.log(chance / honest if vote else (1 - chance) / (1 - honest))
        if not self._evidence:
            self._votes = [0, 0]
        self._votes[0] += 1
        self._votes[1] += vote
        self._evidence = max(0.0, self._evidence + (-step if self.poisoned else step))
        if self._evidence < (self._RELIEF if self.poisoned else self._ALARM):
            return
        self.poisoned, self._evidence = not self.poisoned, 0.0
        objects, agreed = self._votes
        said = 'no more than guesses would' if self.poisoned else 'as it should'
        self.reason = f'the tail agrees with the robot on {agreed} of {objects} objects, {said}'


class PageHinkley:
    """Page's cumulative sum test, two-sided, for a shift of a mean (Biometrika 41, 1954)."""

    def __init__(self, slack: float, limit: float) -> None:
        self._slack = slack
        self._limit = limit
        self._up = self._down = 0.0

    def add(self, deviation: float) -> bool:
        """Whether this deviation from the expected mean completes evidence of a shift."""
        up = self._up + deviation - self._slack
        down = self._down - deviation - self._slack
        self._up = up if up > 0 else 0.0
        self._down = down if down > 0 else 0.0
        if self._up <= self._limit and self._down <= self._limit:
            return False
        self._up = self._down = 0.0
        return True
