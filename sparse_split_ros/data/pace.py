# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""When the frames of a stream come, by stamps that need not be times."""

from __future__ import annotations

# A longer step between two stamps is no pause but a clock that was set.
LONGEST_PAUSE_S = 3600.0
# Of frames whose stamps say nothing, in Hz.
USUAL_RATE = 30.0


class Pace:
    """The time of each frame of a stream, in s since the first, by its stamp.

    A stamp that stands still, runs back or jumps by more than an hour is no time: its frame comes
    1 / ``rate`` s after the one before. ``guessed`` counts these frames; ``step`` is the last step
    between two frames in s, 1 / ``rate`` while there is none.
    """

    def __init__(self, rate: float = USUAL_RATE) -> None:
        self.guessed = 0
        self.step = self._usual = min(1 / rate, LONGEST_PAUSE_S)
        self._first: int | None = None
        self._last = 0.0

    def time(self, stamp_ns: int) -> float:
        """The time of the next frame; times grow, whatever the stamps do."""
        if self._first is None:
            self._first = stamp_ns
            return 0.0
        time = (stamp_ns - self._first) * 1e-9
        jump = time - self._last
        if not 0 < jump <= LONGEST_PAUSE_S:
            self.guessed += 1
            time = self._last + self._usual
            # What follows keeps its distance from here, if the clock was set. A smaller step back
            # is one late stamp; those after it are right again.
            if abs(jump) > LONGEST_PAUSE_S:
                self._first = stamp_ns - round(time * 1e9)
        self.step, self._last = time - self._last, time
        return time
