# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, D102, D103 -- the names, and what they mean, are rclpy's
"""A logger with rclpy's levels, filters and output format, writing to standard error."""

from __future__ import annotations

import os
import sys
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from sparse_split_ros.embedded.exceptions import Subset
from sparse_split_ros.embedded.time import Clock, ClockType

if TYPE_CHECKING:
    from types import FrameType

DEFAULT_FORMAT = '[{severity}] [{time}] [{name}]: {message}'


class LoggingSeverity(IntEnum):
    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


_COLOURS = {
    LoggingSeverity.DEBUG: '\033[32m',
    LoggingSeverity.WARN: '\033[33m',
    LoggingSeverity.ERROR: '\033[31m',
    LoggingSeverity.FATAL: '\033[31m',
}

# Levels by logger name; the empty name is every logger's last resort.
_levels: dict[str, LoggingSeverity] = {'': LoggingSeverity.INFO}


def set_logger_level(name: str, level: LoggingSeverity | int) -> None:
    _levels[name] = LoggingSeverity(level)


def severity_from_name(text: str) -> LoggingSeverity:
    """Return the level of a name as ``--log-level`` takes it.

    :raises ValueError: if there is no such level.
    """
    name = {'warning': 'warn'}.get(text.lower(), text.lower())
    try:
        return LoggingSeverity[name.upper()]
    except KeyError:
        levels = ', '.join(level.name.lower() for level in LoggingSeverity)
        raise ValueError(f'log level is {text!r}, expected one of {levels}') from None


class _Site:
    """One place in the code that logs, and what its filters remember."""

    def __init__(
        self,
        severity: LoggingSeverity,
        throttle: float | None,
        clock: Clock,
        options: frozenset[str],
    ) -> None:
        self.severity, self.options = severity, options
        self._throttle, self._clock = throttle, clock
        self._last: int | None = None
        self._seen = 0

    def passes(self) -> bool:
        if self._throttle is not None:
            now = self._clock.nanoseconds()
            if self._last is not None and 0 <= now - self._last < self._throttle * 1e9:
                return False
            self._last = now
        self._seen += 1
        if 'skip_first' in self.options:
            return self._seen > 1 and ('once' not in self.options or self._seen == 2)
        return 'once' not in self.options or self._seen == 1


class Logger(Subset):
    """Logs under one name; ``throttle_duration_sec``, ``once`` and ``skip_first`` filter."""

    _steady = Clock(clock_type=ClockType.STEADY_TIME)

    def __init__(self, name: str = '') -> None:
        self.name = name
        self._sites: dict[tuple[str, int, int], _Site] = {}

    def get_child(self, name: str) -> Logger:
        if not name:
            raise ValueError('Child logger name must not be empty.')
        return Logger(f'{self.name}.{name}' if self.name else name)

    def set_level(self, level: LoggingSeverity | int) -> None:
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        name = self.name
        while name:
            if _levels.get(name):
                return _levels[name]
            name = name.rpartition('.')[0]
        return _levels['']

    def is_enabled_for(self, severity: LoggingSeverity | int) -> bool:
        return severity >= self.get_effective_level()

    def debug(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.DEBUG, filters)

    def info(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.INFO, filters)

    def warning(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.WARN, filters)

    def warn(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.WARN, filters)

    def error(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.ERROR, filters)

    def fatal(self, message: str, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity.FATAL, filters)

    def log(self, message: str, severity: LoggingSeverity | int, **filters: Any) -> bool:
        return self._log(message, LoggingSeverity(severity), filters)

    def _log(self, message: str, severity: LoggingSeverity, filters: dict[str, Any]) -> bool:
        if not self.is_enabled_for(severity):
            return False
        frame = sys._getframe(2)
        if filters and not self._site(frame, severity, filters).passes():
            return False
        _write(self.name, severity, str(message), frame)
        return True

    def _site(self, frame: FrameType, severity: LoggingSeverity, filters: dict[str, Any]) -> _Site:
        throttle = filters.pop('throttle_duration_sec', None)
        clock = filters.pop('throttle_time_source_type', self._steady)
        options = frozenset(name for name in ('once', 'skip_first') if filters.pop(name, False))
        if filters:
            raise TypeError(f'{sorted(filters)} are not logging options')
        key = (frame.f_code.co_filename, frame.f_lineno, frame.f_lasti)
        site = self._sites.setdefault(key, _Site(severity, throttle, clock, options))
        if site.severity != severity or site.options != options:
            raise ValueError('severity and filters of one log call cannot change between calls')
        return site


_loggers: dict[str, Logger] = {}


def get_logger(name: str) -> Logger:
    return _loggers.setdefault(name, Logger(name))


def _write(name: str, severity: LoggingSeverity, message: str, frame: FrameType) -> None:
    now = time.time_ns()
    line = os.environ.get('RCUTILS_CONSOLE_OUTPUT_FORMAT', DEFAULT_FORMAT)
    for token, value in (
        ('{severity}', severity.name),
        ('{name}', name),
        ('{time}', f'{now // 10**9}.{now % 10**9:09d}'),
        ('{time_as_nanoseconds}', str(now)),
        ('{function_name}', frame.f_code.co_name),
        ('{file_name}', frame.f_code.co_filename),
        ('{line_number}', str(frame.f_lineno)),
        ('{message}', message),
    ):
        line = line.replace(token, value)
    if _coloured() and severity in _COLOURS:
        line = f'{_COLOURS[severity]}{line}\033[0m'
    try:
        sys.stderr.write(f'{line}\n')
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # a closed or absent terminal must not take the node down


def _coloured() -> bool:
    wanted = os.environ.get('RCUTILS_COLORIZED_OUTPUT')
    if wanted in ('0', '1'):
        return wanted == '1'
    return hasattr(sys.stderr, 'isatty') and sys.stderr.isatty()
