# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Feature frames in flight, and the state of the tail that follows from their fate.

Takes the time of a steady clock in seconds as an argument and never reads one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import Link, LinkEstimator, TailState
from sparse_split_ros.link.frame import VERSION, Flag, ReplyFrame, Status

# While the tail is DOWN, one frame in this many seconds asks whether it is back.
PROBE_INTERVAL = 0.25
# Three heartbeats of 0.5 s: a tail that says nothing for longer is not there.
SILENCE = 1.5
# What a link did this long ago says nothing of what it does now.
FORGET = 30.0
Key = TypeVar('Key')
Value = TypeVar('Value')

# How many frames are remembered after their deadline, to recognise late and repeated answers.
_REMEMBERED = 512


@dataclass(frozen=True)
class InFlight:
    """One feature frame on its way. Times are steady seconds, ``size`` is the whole frame's."""

    sequence: int
    size: int
    sent: float
    deadline: float
    flags: Flag = Flag.NONE


class Arrival(Enum):
    """What a reply is to the tracker."""

    IN_TIME = 'in time'
    LATE = 'late'
    REPEATED = 'repeated'
    UNKNOWN = 'unknown'


class Tracker:
    """Knows which frames wait for an answer and whether asking makes sense now.

    A missed deadline opens DOWN, unless the tail answered a frame sent later, or announced itself
    after it was sent: that is a lost frame and no lost tail. An answer in time closes it, as does
    the announcement of a tail that was started again, or that nothing was asked of for a while: a
    head that then computes everything itself sends no probes. ``fingerprint`` is that of the
    head's bundle, 8 bytes.
    """

    def __init__(self, fingerprint: bytes, session: int) -> None:
        self.session = session
        self._fingerprint = fingerprint
        self._state = TailState.UNKNOWN
        self._in_flight: OrderedDict[int, InFlight] = OrderedDict()
        self._missed: OrderedDict[int, InFlight] = OrderedDict()
        self._done: OrderedDict[int, None] = OrderedDict()
        self._estimator = LinkEstimator()
        self._tail: tuple[str, int] | None = None
        # When each tail that fits was last heard of: one that is new, or back, opens UP.
        self._tails: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._heard = float('-inf')
        self._probed = float('-inf')
        # When a frame last was sent, answered or missed.
        self._asked = float('-inf')
        # The tail was there then: frames sent before say nothing against it.
        self._there = float('-inf')
        # Why the tail is FOREIGN, in words for a person.
        self.objection = ''

    @property
    def state(self) -> TailState:
        """The tail as seen from here."""
        return self._state

    @property
    def tail(self) -> str:
        """The name of the tail last heard of, or nothing."""
        return self._tail[0] if self._tail else ''

    def link(self) -> Link:
        """The link's estimates for a policy."""
        return self._estimator.view(self._state)

    def __len__(self) -> int:
        return len(self._in_flight)

    def announced(self, announcement: Announcement, now: float) -> None:
        """A tail said who it is: greet a new one, refuse one that cannot answer us."""
        who = (announcement.tail, announcement.session)
        objection = self._objection(announcement)
        if objection:
            if who == self._tail or self._silent(now):
                self._tail, self.objection = who, objection
                self._state = TailState.FOREIGN
            return
        new = self._tails.get(who, float('-inf')) + SILENCE <= now
        remember(self._tails, who, now)
        self._tail, self._heard, self.objection = who, now, ''
        unasked = 0.0 if self._in_flight else now - self._asked
        if unasked >= FORGET:
            self._estimator = LinkEstimator()
        if new or unasked >= SILENCE or self._state in (TailState.UNKNOWN, TailState.FOREIGN):
            self._state = TailState.UP
            # Probes that went to the one before will find no answer.
            self._there = max(self._there, now)

    def _objection(self, announcement: Announcement) -> str:
        if announcement.version != VERSION:
            return (
                f'tail {announcement.tail} speaks frame format {announcement.version}, this head '
                f'{VERSION}: install the same release on both machines'
            )
        if self._fingerprint.hex() not in announcement.fingerprints:
            served = ', '.join(announcement.fingerprints) or 'none'
            return (
                f'tail {announcement.tail} serves bundle {served}, this head runs '
                f'{self._fingerprint.hex()}: start both with the same bundle'
            )
        return ''

    def refused(self, reason: str, now: float) -> None:
        """A tail of another bundle answered: stop asking until one that fits announces itself."""
        if self._silent(now):
            self._state, self.objection = TailState.FOREIGN, reason

    def _silent(self, now: float) -> bool:
        """Whether no tail that fits is about: where one is, it outweighs those that do not."""
        return self._heard + SILENCE <= now

    def probe_due(self, now: float) -> bool:
        """Whether a frame already answered should ask if the tail is back."""
        return self._state is TailState.DOWN and self._probed + PROBE_INTERVAL <= now

    def sent(self, frame: InFlight) -> None:
        """A feature frame left; sequences are unique within a session."""
        self._in_flight[frame.sequence] = frame
        self._asked = frame.sent
        if frame.flags & Flag.PROBE:
            self._probed = frame.sent

    def replied(self, reply: ReplyFrame, now: float) -> tuple[Arrival, InFlight | None]:
        """A reply came; says what it is worth and which frame it answers."""
        sequence = reply.sequence
        if reply.session != self.session:
            return Arrival.UNKNOWN, None
        if sequence in self._done:
            return Arrival.REPEATED, None
        frame = self._in_flight.pop(sequence, None)
        late = frame is None
        if frame is None:
            frame = self._missed.pop(sequence, None)
        if frame is None:
            return Arrival.UNKNOWN, None
        remember(self._done, sequence, None)
        self._heard = self._asked = now
        # A refusal says nothing about how long an answer takes, and is none.
        if reply.status is not Status.OK:
            if not late and not frame.flags & Flag.PROBE:
                self._estimator.missed()
        else:
            network_ms = max((now - frame.sent) * 1e3 - reply.tail_us / 1e3, 0.0)
            if not late:
                self._estimator.answered(frame.size, network_ms)
                self._there = max(self._there, frame.sent)
                if self._state in (TailState.DOWN, TailState.UNKNOWN):
                    self._state = TailState.UP
        return (Arrival.LATE if late else Arrival.IN_TIME), frame

    def tick(self, now: float) -> list[InFlight]:
        """The frames whose deadline has passed, each once; may open DOWN."""
        passed = [frame for frame in self._in_flight.values() if frame.deadline <= now]
        for frame in passed:
            del self._in_flight[frame.sequence]
            remember(self._missed, frame.sequence, frame)
            self._asked = now
            # A lost probe tells of the outage, which is known, and not of the link in use.
            if not frame.flags & Flag.PROBE:
                self._estimator.missed()
            if self._state is TailState.UP and self._there <= frame.sent:
                self._state = TailState.DOWN
        if self._state is TailState.UP and self._silent(now):
            self._state = TailState.DOWN
        return passed

    def abandon(self) -> None:
        """Wait for nothing any more; an answer that still comes is late."""
        for sequence, frame in self._in_flight.items():
            remember(self._missed, sequence, frame)
        self._in_flight.clear()

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do next, in steady seconds; None for nothing."""
        moments = [frame.deadline for frame in self._in_flight.values()]
        if self._state is TailState.UP:
            moments.append(self._heard + SILENCE)
        return min(moments, default=None)


def remember(memory: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    """Keep what is known of a frame until a late answer to it; of more frames the newest."""
    memory[key] = value
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
