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
    1 / ``rate`` s after the one before. Two that run back in order are of a clock that was set: the
    second and what follows keep their distances. ``guessed`` counts the frames whose stamp is no
    time; ``step`` is the last step between two frames in s, 1 / ``rate`` while there is none.
    """

    def __init__(self, rate: float = USUAL_RATE) -> None:
        self.guessed = 0
        self.step = self._usual = min(1 / rate, LONGEST_PAUSE_S)
        self._first: int | None = None
        self._last = 0.0
        # The newest stamp that is a time, and the one after it while that is taken for late.
        self._known = 0
        self._late: int | None = None

    def time(self, stamp_ns: int) -> float:
        """The time of the next frame; times grow, whatever the stamps do."""
        if self._first is None:
            self._first = self._known = stamp_ns
            return 0.0
        time = (stamp_ns - self._first) * 1e-9
        jump = time - self._last
        late, self._late = self._late, None
        if not 0 < jump <= LONGEST_PAUSE_S:
            # One stamp that is behind is late; those after it are right again. A second one in
            # order with it is of a clock that was set. What is behind a guess alone is a time, too.
            before = self._known if stamp_ns > self._known else late
            if jump <= 0 and before is not None and stamp_ns > before:
                time = self._last + (stamp_ns - before) * 1e-9
            else:
                self.guessed += 1
                time = self._last + self._usual
                if abs(jump) <= LONGEST_PAUSE_S:
                    self._late = stamp_ns
            # What follows keeps its distance from here, if the clock was set.
            if self._late is None:
                self._first = stamp_ns - round(time * 1e9)
        if self._late is None:
            self._known = stamp_ns
        self.step, self._last = time - self._last, time
        return time
