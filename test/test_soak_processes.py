# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A short soak: two processes, a bad link between them, the tail killed, restarted and stopped.

``benchmarks/soak.py`` runs the same for 10,000 frames and looks at the clock as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import make_bundle
from relay import Fault
from soaking import Outcome, Plan, soak

FRAMES = 1500


@pytest.fixture(scope='module')
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    path: Path = tmp_path_factory.mktemp('soak') / 'bundle'
    return soak(make_bundle(path), Plan(frames=FRAMES, rate_hz=150.0))


def test_every_accepted_frame_is_answered_exactly_once(outcome: Outcome) -> None:
    assert (outcome.missing, outcome.doubled, outcome.strange) == (0, 0, 0)
    assert outcome.classified == outcome.accepted


def test_every_received_frame_is_accepted_or_dropped(outcome: Outcome) -> None:
    assert outcome.received == outcome.accepted + outcome.dropped <= outcome.sent
    assert (outcome.rejected, outcome.failed) == (0, 0)
    # A machine that is busy with other things drops more; losing half would be a fault.
    assert outcome.accepted > FRAMES / 2


def test_the_link_and_the_tail_were_as_bad_as_planned(outcome: Outcome) -> None:
    for way in ('features', 'reply_in'):
        assert all(outcome.faults.get(f'{way} {fault.value}') for fault in Fault)
    assert set(outcome.routes) == {'local', 'offboard', 'fallback'}
    assert {'deadline missed', 'tail down', 'answered', 'confident'} <= set(outcome.reasons)


def test_a_restarted_tail_was_used_again(outcome: Outcome) -> None:
    # On a busy machine the second may not be up before the end.
    assert outcome.recovered_s


def test_damaged_replies_were_named_and_nothing_else_went_wrong(outcome: Outcome) -> None:
    assert outcome.head_errors and all('bad reply' in line for line in outcome.head_errors)


def test_memory_stayed_flat(outcome: Outcome) -> None:
    for name in ('head', 'relay'):
        first, *_, last = outcome.rss_mb[name][1:]
        # 1,500 features or images kept would be more than 5 MB.
        assert last - first < 5.0, outcome.rss_mb[name]
