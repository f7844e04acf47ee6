# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A link as an event model: rate, delay, jitter, loss and outages, in virtual time.

Presets are round figures for orientation, not measurements of a network.
"""

from __future__ import annotations

import bisect
import csv
import math
import os
import random
from copy import copy
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

# Payload bytes of one Ethernet or Wi-Fi packet below the RTPS headers.
_MTU = 1400
# Headers of a message on the wire: RTPS, UDP, IP and ROS serialisation.
_OVERHEAD = 120


class LinkModelError(ValueError):
    """A preset, a YAML file or a trace that does not describe a link."""


@dataclass(frozen=True)
class LinkSpec:
    """What a link does to messages.

    ``rate_mbit`` each way; ``delay_ms`` one way; ``jitter_ms`` the mean of an exponential extra
    delay, one way; ``loss`` the share of packets lost, any of which costs a best-effort message.
    Outages begin at random, on average every ``outage_every_s``, and last ``outage_s`` on average,
    both exponential; an interval of 0 means none. ``present`` False is no link at all.
    """

    name: str = 'custom'
    rate_mbit: float = math.inf
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    outage_every_s: float = 0.0
    outage_s: float = 0.0
    present: bool = True

    def __post_init__(self) -> None:
        if not self.rate_mbit > 0:
            raise LinkModelError(f'rate_mbit is {self.rate_mbit}, expected more than 0')
        if not 0 <= self.loss <= 1:
            raise LinkModelError(f'loss is {self.loss}, expected a share from 0 to 1')
        for name in ('delay_ms', 'jitter_ms', 'outage_every_s', 'outage_s'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise LinkModelError(f'{name} is {value}, expected a number >= 0')


PRESETS: dict[str, LinkSpec] = {
    'none': LinkSpec('none', present=False),
    'ideal': LinkSpec('ideal'),
    'ethernet': LinkSpec('ethernet', rate_mbit=1000, delay_ms=0.2, jitter_ms=0.05),
    'wifi': LinkSpec('wifi', rate_mbit=40, delay_ms=2.0, jitter_ms=1.0, loss=0.002),
    'wifi-bad': LinkSpec('wifi-bad', rate_mbit=2, delay_ms=8.0, jitter_ms=8.0, loss=0.05),
    'lte': LinkSpec(
        'lte', rate_mbit=10, delay_ms=20.0, jitter_ms=5.0, loss=0.005,
        outage_every_s=60.0, outage_s=2.0,
    ),
}  # fmt: skip


# What a YAML file may hold besides numbers.
_KINDS: dict[str, tuple[type, str]] = {
    'preset': (str, 'a name'),
    'name': (str, 'a name'),
    'present': (bool, 'true or false'),
}


def load_spec(name_or_path: str | os.PathLike[str]) -> LinkSpec:
    """A preset by name, or a YAML file of LinkSpec's fields, which may start from a ``preset``."""
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix not in ('.yaml', '.yml'):
        raise LinkModelError(
            f'unknown link {str(name_or_path)!r}: choose one of {", ".join(PRESETS)}, '
            'or a .yaml or .csv file'
        )
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise LinkModelError(f'{path}: not a readable link: {reason}') from error
    known = {item.name for item in fields(LinkSpec)}
    if not isinstance(values, dict) or not set(values) <= known | {'preset'}:
        raise LinkModelError(f'{path}: expected only the keys preset, {", ".join(sorted(known))}')
    for key, value in values.items():
        kind, what = _KINDS.get(key, (Real, 'a number'))
        # To Python true is a number as well.
        if not isinstance(value, kind) or (kind is Real and isinstance(value, bool)):
            raise LinkModelError(f'{path}: {key} is {value!r}, expected {what}')
    base = values.pop('preset', None)
    if base is not None and base not in PRESETS:
        raise LinkModelError(f'{path}: preset {base!r}, choose one of {", ".join(PRESETS)}')
    try:
        return replace(PRESETS[base] if base else LinkSpec(path.stem), **values)
    except LinkModelError as error:
        raise LinkModelError(f'{path}: {error}') from error


def load_link(name_or_path: str) -> LinkSpec | TraceModel:
    """A preset by name, a YAML file, or a recorded trace (.csv). Raises LinkModelError."""
    if name_or_path.endswith('.csv'):
        return TraceModel(name_or_path)
    return load_spec(name_or_path)


class LinkModel:
    """One way out and one way back, each a first-in first-out queue at the link's rate.

    Deterministic for a seed. Times are virtual seconds and must not go backwards per direction.
    """

    def __init__(self, spec: LinkSpec, seed: int = 0) -> None:
        self.spec = spec
        self._random = random.Random(seed)
        self._busy = [0.0, 0.0]
        self._outage = (math.inf, math.inf)
        if spec.outage_every_s:
            self._outage = self._next_outage(0.0)

    def change(self, spec: LinkSpec, now: float) -> None:
        """From now on another link; what is queued stays so."""
        self.spec = spec
        self._outage = self._next_outage(now) if spec.outage_every_s else (math.inf, math.inf)

    def send(self, size: int, now: float, *, back: bool = False) -> float | None:
        """When a message of this many bytes arrives, in s; None when it never does."""
        spec = self.spec
        if not spec.present or self._out(now):
            return None
        wire = size + _OVERHEAD
        start = max(now, self._busy[back])
        end = start + wire * 8e-6 / spec.rate_mbit
        self._busy[back] = end
        packets = -(-wire // _MTU)
        if spec.loss and self._random.random() > (1 - spec.loss) ** packets:
            return None
        extra = self._random.expovariate(1.0) * spec.jitter_ms if spec.jitter_ms else 0.0
        return end + (spec.delay_ms + extra) / 1e3

    def _out(self, now: float) -> bool:
        while now >= self._outage[1]:
            self._outage = self._next_outage(self._outage[1])
        return now >= self._outage[0]

    def _next_outage(self, after: float) -> tuple[float, float]:
        start = after + self._random.expovariate(1 / self.spec.outage_every_s)
        return start, start + self._random.expovariate(1 / max(self.spec.outage_s, 1e-9))


class TraceModel:
    """A recorded link: a CSV file with the columns time_s, rtt_ms, loss and rate_mbit.

    Rows are in time order from any first moment, each valid until the next and the last for as long
    as the one before it; then the trace repeats. ``loss`` is of round trips. ``rate_mbit`` may be
    left out or empty, ``loss`` too.
    """

    def __init__(self, path: str | os.PathLike[str], seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._busy = [0.0, 0.0]
        self._times: list[float] = []
        self._rows: list[tuple[float, float, float]] = []
        try:
            # A spreadsheet may have put a byte order mark in front.
            with Path(path).open(newline='', encoding='utf-8-sig') as file:
                for row in csv.DictReader(file):
                    self._times.append(_finite(row, 'time_s'))
                    self._rows.append(_trace_row(row))
        except OSError as error:
            raise LinkModelError(f'{path}: not a readable trace: {error.strerror}') from error
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise LinkModelError(
                f'{path}: expected the columns time_s, rtt_ms, loss and rate_mbit ({error!r})'
            ) from error
        if not self._rows or sorted(self._times) != self._times or self._times[0] < 0:
            raise LinkModelError(f'{path}: expected rows of ascending time_s >= 0')
        self._times = [moment - self._times[0] for moment in self._times]
        last = self._times[-1]
        self._span = 2 * last - self._times[-2] if last else 1.0
        self.name = Path(path).name

    def seeded(self, seed: int) -> TraceModel:
        """The same recording with its losses drawn anew."""
        other = copy(self)
        other._random = random.Random(seed)
        other._busy = [0.0, 0.0]
        return other

    def mean(self) -> LinkSpec:
        """A steady link of this trace's mean round trip, time for a byte and loss, over time."""
        lasts = [end - start for start, end in zip(self._times, [*self._times[1:], self._span])]
        rtt, loss, slowness = (
            sum(last * value for last, value in zip(lasts, column)) / self._span
            for column in zip(*((rtt, loss, 1 / rate) for rtt, loss, rate in self._rows))
        )
        rate = 1 / slowness if slowness else math.inf
        return LinkSpec(self.name, rate, delay_ms=rtt / 2, loss=_each_way(loss))

    def send(self, size: int, now: float, *, back: bool = False) -> float | None:
        """As :meth:`LinkModel.send`; half of the round trip is spent each way."""
        start = max(now, self._busy[back])
        at = bisect.bisect_right(self._times, start % self._span) - 1
        rtt_ms, loss, rate_mbit = self._rows[at]
        end = self._busy[back] = start + (size + _OVERHEAD) * 8e-6 / rate_mbit
        if loss and self._random.random() < _each_way(loss):
            return None
        return end + rtt_ms / 2e3


def _each_way(loss: float) -> float:
    """The loss of one way, of which two make this loss of round trips."""
    return 1 - math.sqrt(1 - loss)


def _trace_row(row: dict[str, Any]) -> tuple[float, float, float]:
    rtt = _finite(row, 'rtt_ms')
    loss, rate = float(row.get('loss') or 0.0), float(row.get('rate_mbit') or math.inf)
    if not (rtt >= 0 and 0 <= loss <= 1 and rate > 0):
        raise ValueError(f'rtt_ms {rtt}, loss {loss}, rate_mbit {rate}')
    return rtt, loss, rate


def _finite(row: dict[str, Any], name: str) -> float:
    value = float(row[name])
    if not math.isfinite(value):
        raise ValueError(f'{name} {value}, expected a finite number')
    return value
