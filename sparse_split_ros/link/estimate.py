# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The link as the head sees it: round-trip time, goodput and loss, from its own frames alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class TailState(str, Enum):
    """The tail as the head sees it."""

    UNKNOWN = 'unknown'  # never heard of
    UP = 'up'
    DOWN = 'down'  # a deadline was missed, or it fell silent
    FOREIGN = 'foreign'  # there, but with another bundle or frame format


@dataclass(frozen=True)
class Link:
    """What a policy may know of the link.

    ``rtt_ms`` is the smoothed time between sending features and the answer, less the tail's own
    time; ``jitter_ms`` its mean deviation; ``goodput`` in bytes per second; ``loss`` the share of
    frames without an answer in time. NaN stands for not yet measured.
    """

    state: TailState = TailState.UNKNOWN
    rtt_ms: float = math.nan
    jitter_ms: float = math.nan
    goodput: float = math.nan
    loss: float = math.nan


class LinkEstimator:
    """Exponentially weighted estimates, one update per answered or missed frame.

    Round-trip time and jitter follow RFC 6298. Goodput is the slope of a weighted least-squares
    line of network time over bytes; frames of one size cannot tell it from the fixed delay, and
    then it stays NaN.
    """

    _GAIN = 1 / 8
    _DEVIATION_GAIN = 1 / 4
    _LOSS_GAIN = 1 / 32
    _FORGET = 0.98

    def __init__(self) -> None:
        self._rtt = math.nan
        self._jitter = math.nan
        self._loss = math.nan
        # Weighted sums of 1, bytes, ms, bytes², bytes·ms.
        self._sums = [0.0] * 5

    def answered(self, payload_bytes: int, network_ms: float) -> None:
        """A frame of this size came back after this time, the tail's own time taken off."""
        if math.isnan(self._rtt):
            self._rtt, self._jitter = network_ms, network_ms / 2
        else:
            deviation = abs(network_ms - self._rtt)
            self._jitter += self._DEVIATION_GAIN * (deviation - self._jitter)
            self._rtt += self._GAIN * (network_ms - self._rtt)
        self._outcome(lost=False)
        terms = (1.0, payload_bytes, network_ms, payload_bytes**2, payload_bytes * network_ms)
        self._sums = [self._FORGET * total + term for total, term in zip(self._sums, terms)]

    def missed(self) -> None:
        """A frame got no answer in time."""
        self._outcome(lost=True)

    def _outcome(self, *, lost: bool) -> None:
        # From nothing lost: who takes the link for dead after one early miss asks it no more, and
        # would never learn better.
        loss = 0.0 if math.isnan(self._loss) else self._loss
        self._loss = loss + self._LOSS_GAIN * (lost - loss)

    def view(self, state: TailState) -> Link:
        """The estimates as a policy sees them."""
        return Link(state, self._rtt, self._jitter, self._goodput(), self._loss)

    def _goodput(self) -> float:
        count, size, ms, size_2, size_ms = self._sums
        if count < 8:
            return math.nan
        spread = size_2 / count - (size / count) ** 2
        slope = (size_ms / count - size * ms / count**2) / spread if spread > 64 else 0.0
        return 1e3 / slope if slope > 1e-9 else math.nan
