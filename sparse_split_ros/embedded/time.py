# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, D102 -- the names, and what they mean, are rclpy's
"""Times, durations and clocks, with rclpy's rules about mixing clocks."""

from __future__ import annotations

import time
from enum import IntEnum
from functools import total_ordering
from typing import TYPE_CHECKING

from sparse_split_ros.embedded import messages
from sparse_split_ros.embedded.exceptions import Subset

if TYPE_CHECKING:
    from collections.abc import Callable

NANOSECONDS = 10**9
_LIMIT = 2**63


class ClockType(IntEnum):
    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


@total_ordering
class Duration:
    """A signed span of time; ``Duration(seconds=1.5)`` or ``Duration(nanoseconds=…)``."""

    def __init__(self, *, seconds: float = 0, nanoseconds: float = 0) -> None:
        self._nanoseconds = int(seconds * NANOSECONDS) + int(nanoseconds)
        if not -_LIMIT <= self._nanoseconds < _LIMIT:
            raise OverflowError(f'{self._nanoseconds} ns is more than a duration can hold')

    @property
    def nanoseconds(self) -> int:
        return self._nanoseconds

    def __repr__(self) -> str:
        return f'Duration(nanoseconds={self.nanoseconds})'

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Duration):
            return NotImplemented
        return self.nanoseconds == other.nanoseconds

    def __lt__(self, other: Duration) -> bool:
        if not isinstance(other, Duration):
            return NotImplemented
        return self.nanoseconds < other.nanoseconds

    def __hash__(self) -> int:
        return hash(self._nanoseconds)

    def to_msg(self) -> messages.Duration:
        seconds, nanoseconds = divmod(self.nanoseconds, NANOSECONDS)
        return messages.Duration(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: messages.Duration) -> Duration:
        return cls(nanoseconds=msg.sec * NANOSECONDS + msg.nanosec)


# What discovery reports for a policy that was never set.
INFINITE = Duration(nanoseconds=_LIMIT - 1)


@total_ordering
class Time:
    """A point on one clock; comparing points of different clocks is an error."""

    def __init__(
        self,
        *,
        seconds: float = 0,
        nanoseconds: float = 0,
        clock_type: ClockType = ClockType.SYSTEM_TIME,
    ) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError(f'clock_type is {clock_type!r}, expected a ClockType')
        if seconds < 0 or nanoseconds < 0:
            raise ValueError(f'a time must not be negative, got {seconds} s, {nanoseconds} ns')
        self._nanoseconds = int(seconds * NANOSECONDS) + int(nanoseconds)
        self._clock_type = clock_type
        if self._nanoseconds >= _LIMIT:
            raise OverflowError(f'{self._nanoseconds} ns is more than a time can hold')

    @property
    def nanoseconds(self) -> int:
        return self._nanoseconds

    @property
    def clock_type(self) -> ClockType:
        return self._clock_type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        return divmod(self._nanoseconds, NANOSECONDS)

    def __repr__(self) -> str:
        return f'Time(nanoseconds={self._nanoseconds}, clock_type={self._clock_type.name})'

    def __add__(self, other: Duration) -> Time:
        if not isinstance(other, Duration):
            return NotImplemented
        total = self._nanoseconds + other.nanoseconds
        return Time(nanoseconds=total, clock_type=self._clock_type)

    __radd__ = __add__

    def __sub__(self, other: Time | Duration) -> Duration | Time:
        if isinstance(other, Duration):
            left = self._nanoseconds - other.nanoseconds
            return Time(nanoseconds=left, clock_type=self._clock_type)
        return Duration(nanoseconds=self._nanoseconds - self._same_clock(other).nanoseconds)

    def __eq__(self, other: object) -> bool:
        return self._nanoseconds == self._same_clock(other).nanoseconds

    def __lt__(self, other: Time) -> bool:
        return self._nanoseconds < self._same_clock(other).nanoseconds

    __hash__ = None  # type: ignore[assignment]  # as in rclpy: == raises on a foreign clock

    def _same_clock(self, other: object) -> Time:
        if not isinstance(other, Time):
            raise TypeError(f'expected a Time, got {other!r}')
        if other.clock_type != self._clock_type:
            raise TypeError(f'{self!r} and {other!r} are of different clocks')
        return other

    def to_msg(self) -> messages.Time:
        seconds, nanoseconds = self.seconds_nanoseconds()
        return messages.Time(sec=seconds, nanosec=nanoseconds)

    @classmethod
    def from_msg(cls, msg: messages.Time, clock_type: ClockType = ClockType.ROS_TIME) -> Time:
        if not isinstance(msg, messages.Time):
            raise TypeError(f'expected a builtin_interfaces/msg/Time, got {msg!r}')
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec, clock_type=clock_type)


class Clock(Subset):
    """A clock of one type. A ROS clock reads system time until simulated time is switched on."""

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError(f'clock_type is {clock_type!r}, expected a ClockType')
        self._clock_type = clock_type
        self._read: Callable[[], int] = (
            time.monotonic_ns if clock_type is ClockType.STEADY_TIME else time.time_ns
        )

    @property
    def clock_type(self) -> ClockType:
        return self._clock_type

    def now(self) -> Time:
        return Time(nanoseconds=self._read(), clock_type=self._clock_type)

    def nanoseconds(self) -> int:
        """Return the time as a plain number; timers ask for nothing more."""
        return self._read()

    def __repr__(self) -> str:
        return f'Clock(clock_type={self._clock_type.name})'


class ROSClock(Clock):
    """A clock that follows ``/clock`` while simulated time is active."""

    def __init__(self) -> None:
        super().__init__(clock_type=ClockType.ROS_TIME)
        self._override = 0
        self._active = False
        self._on_change: list[Callable[[], None]] = []

    @property
    def ros_time_is_active(self) -> bool:
        return self._active

    def _set_ros_time_is_active(self, enabled: bool) -> None:
        self._active = enabled
        self._read = (lambda: self._override) if enabled else time.time_ns
        self._changed()

    def set_ros_time_override(self, now: Time) -> None:
        self._override = now.nanoseconds
        self._changed()

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()
