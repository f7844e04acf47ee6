# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tail as the head sees it: every change of state, and every fate of a frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import VERSION, Flag, ReplyFrame, Status
from sparse_split_ros.link.tracker import (
    FORGET,
    PROBE_INTERVAL,
    SILENCE,
    Arrival,
    InFlight,
    Tracker,
)

OURS, OTHER = bytes(range(8)), bytes(8)
SESSION = 11
DEADLINE = 0.125  # a power of two: sums of times stay exact


def hello(
    session: int = 1, bundle: bytes = OURS, version: int = VERSION, tail: str = 'tail'
) -> Announcement:
    return Announcement(tail, session, (bundle.hex(),), version)


def reply(
    sequence: int, status: Status = Status.OK, tail_us: int = 0, session: int = SESSION
) -> ReplyFrame:
    return ReplyFrame(status, OURS, session, sequence, np.zeros(0, np.float32), tail_us)


def flight(sequence: int, sent: float, flags: Flag = Flag.NONE, size: int = 100) -> InFlight:
    return InFlight(sequence, size, sent, sent + DEADLINE, flags)


@pytest.fixture
def tracker() -> Tracker:
    """A tracker whose tail is up since 0 s."""
    tracker = Tracker(OURS, SESSION)
    tracker.announced(hello(), 0.0)
    return tracker


@pytest.fixture
def down(tracker: Tracker) -> Tracker:
    """A tracker whose tail went down at DEADLINE and says so in its heartbeats since."""
    tracker.sent(flight(1, 0.0))
    tracker.tick(DEADLINE)
    assert tracker.state is TailState.DOWN
    return tracker


def test_nothing_is_known_of_a_tail_never_heard_of() -> None:
    tracker = Tracker(OURS, SESSION)
    tracker.tick(100.0)
    assert tracker.state is TailState.UNKNOWN
    assert tracker.next_deadline() is None and tracker.tail == ''


def test_an_announcement_that_fits_opens_up(tracker: Tracker) -> None:
    assert tracker.state is TailState.UP
    assert tracker.tail == 'tail'


@pytest.mark.parametrize(
    ('announcement', 'objection'),
    [
        (hello(bundle=OTHER), f'serves bundle {OTHER.hex()}, this head runs {OURS.hex()}'),
        (hello(version=VERSION + 1), f'speaks frame format {VERSION + 1}, this head {VERSION}'),
        (Announcement('tail', 1, ()), 'serves bundle none'),
    ],
)
def test_a_tail_that_does_not_fit_is_foreign_and_says_why(
    announcement: Announcement, objection: str
) -> None:
    tracker = Tracker(OURS, SESSION)
    tracker.announced(announcement, 0.0)
    assert tracker.state is TailState.FOREIGN
    assert objection in tracker.objection


def test_a_foreign_tail_is_forgotten_when_one_that_fits_comes() -> None:
    tracker = Tracker(OURS, SESSION)
    tracker.announced(hello(bundle=OTHER), 0.0)
    tracker.announced(hello(session=2), 0.1)
    assert tracker.state is TailState.UP and tracker.objection == ''


@pytest.mark.parametrize('lost', [False, True])
def test_beside_a_tail_that_fits_a_foreign_one_does_not_matter(
    tracker: Tracker, lost: bool
) -> None:
    if lost:
        tracker.sent(flight(1, 0.0))
        tracker.tick(DEADLINE)
    before = tracker.state
    tracker.announced(hello(7, OTHER, tail='other'), 0.5)
    tracker.refused('of another bundle', 0.5)
    assert tracker.state is before


def test_a_tail_that_comes_back_with_another_bundle_is_foreign_when_the_old_one_is_silent(
    tracker: Tracker,
) -> None:
    tracker.announced(hello(2, OTHER), SILENCE)
    assert tracker.state is TailState.FOREIGN


def test_a_refusal_is_believed_when_no_tail_that_fits_is_about(down: Tracker) -> None:
    down.refused('of another bundle', SILENCE)
    assert down.state is TailState.FOREIGN and down.objection == 'of another bundle'


def test_a_missed_deadline_opens_down_at_the_deadline(tracker: Tracker) -> None:
    tracker.sent(flight(1, 1.0))
    assert tracker.next_deadline() == 1.0 + DEADLINE
    assert tracker.tick(math.nextafter(1.0 + DEADLINE, 0)) == []
    assert tracker.state is TailState.UP
    assert [frame.sequence for frame in tracker.tick(1.0 + DEADLINE)] == [1]
    assert tracker.state is TailState.DOWN


def test_a_frame_is_missed_once(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.tick(DEADLINE)
    assert tracker.tick(DEADLINE) == [] and len(tracker) == 0


def test_a_lost_frame_is_no_lost_tail_when_a_later_one_was_answered(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.sent(flight(2, 0.01))
    tracker.replied(reply(2), 0.02)
    assert [frame.sequence for frame in tracker.tick(DEADLINE)] == [1]
    assert tracker.state is TailState.UP
    assert tracker.link().loss == pytest.approx(1 / 32)


def test_a_probe_that_went_to_the_lost_tail_does_not_count_against_the_new_one(
    down: Tracker,
) -> None:
    down.sent(flight(2, 1.0, Flag.PROBE))
    down.announced(hello(session=2), 1.0 + DEADLINE / 2)
    assert [frame.sequence for frame in down.tick(1.0 + DEADLINE)] == [2]
    assert down.state is TailState.UP


def test_an_earlier_answer_does_not_vouch_for_the_tail(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.replied(reply(1), 0.01)
    tracker.sent(flight(2, 0.02))
    tracker.tick(0.02 + DEADLINE)
    assert tracker.state is TailState.DOWN


def test_silence_opens_down_even_when_nothing_is_asked(tracker: Tracker) -> None:
    assert tracker.next_deadline() == SILENCE
    tracker.tick(math.nextafter(SILENCE, 0))
    assert tracker.state is TailState.UP
    tracker.tick(SILENCE)
    assert tracker.state is TailState.DOWN
    assert tracker.next_deadline() is None


def test_heartbeats_and_replies_break_the_silence(tracker: Tracker) -> None:
    tracker.announced(hello(), 1.0)
    assert tracker.next_deadline() == 1.0 + SILENCE
    tracker.sent(flight(1, 1.9))
    tracker.replied(reply(1, Status.EXPIRED), 2.0)
    assert tracker.next_deadline() == 2.0 + SILENCE


def test_a_heartbeat_does_not_close_down(down: Tracker) -> None:
    down.announced(hello(), 0.5)
    assert down.state is TailState.DOWN


def test_a_tail_that_nothing_is_asked_of_is_up_again_for_its_heartbeats(down: Tracker) -> None:
    # As of a head that computes everything itself while the tail is down, and so sends no probes.
    for beat in (0.5, 1.0, 1.5):
        down.announced(hello(), beat)
        assert down.state is TailState.DOWN
    down.announced(hello(), 2.0)
    assert down.state is TailState.UP


def test_a_tail_that_answers_no_probe_stays_down_for_all_its_heartbeats(down: Tracker) -> None:
    for number in range(2, 40):
        down.sent(flight(number, 0.25 * number, Flag.PROBE))
        down.tick(0.25 * number + DEADLINE)
        down.announced(hello(), 0.25 * number + DEADLINE)
        assert down.state is TailState.DOWN


def test_lost_probes_are_no_loss_of_the_link_in_use(down: Tracker) -> None:
    before = down.link().loss
    down.sent(flight(2, 1.0, Flag.PROBE))
    down.tick(2.0)
    assert down.link().loss == before


def test_what_was_measured_is_forgotten_when_nothing_was_asked_for_long(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.replied(reply(1), 0.1)
    tracker.announced(hello(), FORGET)
    assert tracker.link().rtt_ms == pytest.approx(100)
    tracker.announced(hello(), 0.1 + FORGET)
    assert math.isnan(tracker.link().rtt_ms) and math.isnan(tracker.link().loss)


@pytest.mark.parametrize(('session', 'after'), [(2, 0.2), (1, SILENCE)])
def test_a_tail_that_was_started_again_or_silent_is_up_at_once(
    down: Tracker, session: int, after: float
) -> None:
    down.announced(hello(session), after)
    assert down.state is TailState.UP


def test_probes_are_due_at_most_every_interval(down: Tracker) -> None:
    assert down.probe_due(DEADLINE)
    down.sent(flight(2, DEADLINE, Flag.PROBE))
    assert not down.probe_due(math.nextafter(DEADLINE + PROBE_INTERVAL, 0))
    assert down.probe_due(DEADLINE + PROBE_INTERVAL)


def test_probes_are_due_only_while_down(tracker: Tracker) -> None:
    assert not tracker.probe_due(1.0)
    assert not Tracker(OURS, SESSION).probe_due(1.0)


def test_an_answered_probe_closes_down(down: Tracker) -> None:
    down.sent(flight(2, 1.0, Flag.PROBE))
    arrival, frame = down.replied(reply(2), 1.01)
    assert arrival is Arrival.IN_TIME and frame is not None and frame.flags is Flag.PROBE
    assert down.state is TailState.UP


def test_a_late_answer_closes_nothing(down: Tracker) -> None:
    arrival, frame = down.replied(reply(1), DEADLINE + 0.01)
    assert arrival is Arrival.LATE and frame is not None
    assert down.state is TailState.DOWN


@pytest.mark.parametrize('flags', [Flag.NONE, Flag.PROBE])
def test_a_refusal_is_a_loss_of_all_but_probes(tracker: Tracker, flags: Flag) -> None:
    for sequence in range(1, 40):
        tracker.sent(flight(sequence, sequence, flags))
        tracker.replied(reply(sequence, Status.FAILED), sequence + 0.01)
    assert tracker.state is TailState.UP
    loss = tracker.link().loss
    assert math.isnan(loss) if flags else loss > 0.5


def test_a_refused_probe_closes_nothing(down: Tracker) -> None:
    down.sent(flight(2, 1.0, Flag.PROBE))
    down.replied(reply(2, Status.FAILED), 1.01)
    assert down.state is TailState.DOWN


def test_a_frame_is_answered_once(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    assert tracker.replied(reply(1), 0.01)[0] is Arrival.IN_TIME
    assert tracker.replied(reply(1), 0.02) == (Arrival.REPEATED, None)


def test_a_late_frame_is_answered_once(down: Tracker) -> None:
    assert down.replied(reply(1), 0.2)[0] is Arrival.LATE
    assert down.replied(reply(1), 0.3) == (Arrival.REPEATED, None)


@pytest.mark.parametrize('other', [reply(2), reply(1, session=SESSION + 1)])
def test_a_reply_to_nothing_of_ours_is_unknown(tracker: Tracker, other: ReplyFrame) -> None:
    tracker.sent(flight(1, 0.0))
    assert tracker.replied(other, 0.01) == (Arrival.UNKNOWN, None)
    assert len(tracker) == 1


def test_the_tails_own_time_is_not_the_links(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.replied(reply(1, tail_us=6000), 0.010)
    assert tracker.link().rtt_ms == pytest.approx(4.0)


def test_a_tail_that_claims_more_time_than_passed_gives_no_negative_round_trip(
    tracker: Tracker,
) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.replied(reply(1, tail_us=2**32 - 1), 0.010)
    assert tracker.link().rtt_ms == 0.0


def test_an_abandoned_frame_is_only_late(tracker: Tracker) -> None:
    tracker.sent(flight(1, 0.0))
    tracker.abandon()
    assert len(tracker) == 0 and tracker.tick(1.0) == []
    assert tracker.replied(reply(1), 1.0)[0] is Arrival.LATE


SENT, REPLIED, TICK, HELLO = range(4)
steps = st.lists(
    st.tuples(
        st.sampled_from([SENT, SENT, REPLIED, REPLIED, TICK, HELLO]),
        st.integers(0, 30),  # which of the frames, or which session
        st.integers(0, 8).map(lambda n: n / 32),  # seconds that pass before
    ),
    max_size=120,
)


@given(steps)
def test_every_frame_has_exactly_one_fate_in_any_history(
    history: list[tuple[int, int, float]],
) -> None:
    tracker = Tracker(OURS, SESSION)
    now, sequence = 0.0, 0
    waiting: set[int] = set()
    answered: set[int] = set()
    for kind, number, pause in history:
        now += pause
        if kind == SENT:
            sequence += 1
            tracker.sent(flight(sequence, now))
            waiting.add(sequence)
        elif kind == REPLIED:
            arrival, frame = tracker.replied(reply(number), now)
            known = 0 < number <= sequence
            assert (arrival is Arrival.UNKNOWN) == (not known)
            assert (arrival is Arrival.REPEATED) == (number in answered)
            assert (arrival is Arrival.IN_TIME) == (number in waiting)
            assert frame is None or frame.sequence == number
            waiting.discard(number)
            answered |= {number} if known else set()
        elif kind == HELLO:
            tracker.announced(hello(number % 3), now)
        else:
            missed = {frame.sequence for frame in tracker.tick(now)}
            assert missed <= waiting
            waiting -= missed
            due = tracker.next_deadline()
            assert due is None or due > now, 'after a tick there is nothing left to do now'
        assert len(tracker) == len(waiting)


def test_memory_does_not_grow_with_frames_sessions_or_lost_replies() -> None:
    tracker = Tracker(OURS, SESSION)
    for sequence in range(3000):
        now = sequence / 64
        tracker.announced(hello(session=sequence), now)
        tracker.sent(flight(sequence, now))
        if sequence % 2:
            tracker.replied(reply(sequence), now)
        tracker.tick(now)
    sizes = [len(value) for value in vars(tracker).values() if hasattr(value, '__len__')]
    assert max(sizes) <= 512
