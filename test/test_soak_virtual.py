# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Head, lossy link and tail in virtual time, where every bound can be exact."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from bundles import make_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulation import Faults, Setup, Simulation

from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import FeatureFrame, Flag
from sparse_split_ros.link.tracker import PROBE_INTERVAL, SILENCE
from sparse_split_ros.policy.decision import Reason, Route
from sparse_split_ros.runtime.bundle import Bundle

BAD = Faults(0.1, 0.1, 0.1, 0.1, 0.1, delay=0.02, jitter=0.02)


@lru_cache(maxsize=1)
def make() -> Bundle:
    return make_bundle(Path(mkdtemp()) / 'bundle', bottleneck=None)


@pytest.fixture
def bundle() -> Bundle:
    return make()


chance = st.sampled_from([0.0, 0.02, 0.1, 0.5])
faults = st.builds(
    Faults,
    drop=chance,
    duplicate=chance,
    reorder=chance,
    truncate=chance,
    corrupt=chance,
    delay=st.sampled_from([0.0, 0.001, 0.02, 0.06, 0.3]),
    jitter=st.sampled_from([0.0, 0.03, 0.2]),
)
moments = st.lists(st.integers(0, 6000).map(lambda ms: ms / 1e3), max_size=3).map(tuple)
setups = st.builds(
    Setup,
    seed=st.integers(0, 2**31),
    frames=st.integers(1, 120),
    period=st.sampled_from([0.004, 1 / 30, 0.1, 0.4]),
    work=st.sampled_from([0.0, 0.002, 0.03, 0.2]),
    deadline=st.sampled_from([0.001, 0.03, 0.1, 1.0]),
    audit=st.sampled_from([0.0, 0.3]),
    confident=st.sampled_from([0.0, 0.3, 1.0]),
    up=faults,
    down=faults,
    tail_work=st.sampled_from([0.0, 0.004, 0.3]),
    starts=moments,
    kills=moments,
    max_in_flight=st.sampled_from([1, 4, 64]),
    faulty_head=st.frozensets(st.integers(0, 120), max_size=3),
    faulty_tail=st.frozensets(st.integers(0, 120), max_size=3),
)


@given(setups)
@settings(max_examples=250)
@example(Setup(frames=2000, period=0.004, work=0.002, up=BAD, down=BAD, confident=0.0))
def test_every_accepted_frame_is_decided_once_and_in_time_on_any_link(setup: Setup) -> None:
    simulation = Simulation(make(), setup).run()
    simulation.check()
    assert simulation.most_in_flight <= setup.max_in_flight
    probes = [
        moment for moment, data in simulation.sent
        if FeatureFrame.parse(data).flags is Flag.PROBE
    ]  # fmt: skip
    gaps = [later - former for former, later in itertools.pairwise(probes)]
    assert all(gap >= PROBE_INTERVAL - 1e-9 for gap in gaps)


def test_ten_thousand_frames_over_a_bad_link_with_kills(bundle: Bundle) -> None:
    setup = Setup(
        frames=10_000, period=0.005, work=0.001, confident=0.2, up=BAD, down=BAD,
        starts=(0.0, 12.0, 30.0), kills=(10.0, 25.0),
    )  # fmt: skip
    simulation = Simulation(bundle, setup).run()
    simulation.check()
    assert len(simulation.accepted) >= 9_900
    assert simulation.most_in_flight >= 4
    shares = {route: len(simulation.by_route(route)) / 10_000 for route in Route}
    assert min(shares.values()) > 0.05, 'every route is exercised'


def test_on_a_good_link_every_doubtful_frame_is_answered_offboard(bundle: Bundle) -> None:
    simulation = Simulation(bundle, Setup(frames=300, starts=(-1.0,), confident=0.3)).run()
    simulation.check()
    assert not simulation.by_route(Route.FALLBACK)
    assert len(simulation.by_route(Route.OFFBOARD)) > 150


@pytest.mark.parametrize('name', ['drop', 'duplicate', 'reorder', 'truncate', 'corrupt'])
def test_each_fault_alone_costs_no_frame(bundle: Bundle, name: str) -> None:
    faults = replace(Faults(delay=0.02), **{name: 0.3})
    simulation = Simulation(bundle, Setup(seed=3, up=faults, down=faults)).run()
    simulation.check()
    assert simulation.by_route(Route.OFFBOARD)
    if name in ('truncate', 'corrupt'):
        assert simulation.refusals and all(simulation.refusals), 'each is named'


def test_the_loss_of_the_tail_is_noticed_at_the_first_deadline(bundle: Bundle) -> None:
    setup = Setup(frames=120, confident=0.0, kills=(2.0,))
    simulation = Simulation(bundle, setup).run()
    simulation.check()
    first_lost = min(
        simulation.arrivals[decision.header]
        for _, decision in simulation.decisions
        if decision.reason is Reason.DEADLINE
    )
    lost_at = next(when for when, state in simulation.states if state is TailState.DOWN)
    assert lost_at == first_lost + setup.deadline
    after = [decision for when, decision in simulation.decisions if when > lost_at + 0.1]
    assert {decision.reason for decision in after} == {Reason.TAIL_DOWN}
    assert max(decision.times.total for decision in after) < 1e3 * setup.deadline / 2


def test_a_restarted_tail_is_used_from_its_first_announcement_on(bundle: Bundle) -> None:
    setup = Setup(frames=300, confident=0.0, kills=(2.0,), starts=(0.0, 5.0))
    simulation = Simulation(bundle, setup).run()
    simulation.check()
    greeted = min(moment for moment in simulation.greeted if moment >= 5.0)
    assert simulation.states[-1] == (greeted, TailState.UP)
    first = min(
        simulation.arrivals[d.header] for when, d in simulation.by_route(Route.OFFBOARD)
        if when > 5.0
    )  # fmt: skip
    assert first - greeted <= 2 * setup.period


def test_a_tail_that_dies_while_nobody_asks_is_noticed_by_its_silence(bundle: Bundle) -> None:
    simulation = Simulation(bundle, Setup(frames=200, confident=1.0, kills=(2.1,))).run()
    simulation.check()
    last = max(simulation.greeted)
    assert simulation.states[-1] == (last + SILENCE, TailState.DOWN)


def test_after_a_cut_shorter_than_a_silence_a_probe_finds_the_tail(bundle: Bundle) -> None:
    setup = Setup(frames=250, confident=0.0, up=Faults(), down=Faults())
    simulation = Simulation(bundle, setup)

    def cut(state: bool) -> None:
        setup.up.cut = setup.down.cut = state

    simulation.at(3.0, lambda: cut(True))
    simulation.at(4.0, lambda: cut(False))
    simulation.run()
    simulation.check()
    up = [when for when, state in simulation.states if state is TailState.UP]
    # One probe interval, one frame to carry the probe, one round trip.
    assert 4.0 < up[-1] <= 4.0 + PROBE_INTERVAL + setup.period + 0.03


def test_a_tail_slower_than_the_deadline_is_left_alone_but_for_probes(bundle: Bundle) -> None:
    simulation = Simulation(bundle, Setup(frames=300, confident=0.0, tail_work=0.2)).run()
    simulation.check()
    assert not simulation.by_route(Route.OFFBOARD)
    asked = [d for _, d in simulation.decisions if d.reason is Reason.DEADLINE]
    assert len(asked) <= 5
    assert all(late for _, late in simulation.policy.taught)


def test_the_same_seed_gives_the_same_history(bundle: Bundle) -> None:
    def history() -> list[tuple[float, int, str]]:
        simulation = Simulation(bundle, Setup(seed=9, up=BAD, down=BAD, kills=(3.0,))).run()
        return [(when, d.header, d.reason.value) for when, d in simulation.decisions]

    assert history() == history()


def test_memory_stays_flat(bundle: Bundle) -> None:
    setup = Setup(
        frames=3400, period=0.005, work=0.001, confident=0.0, up=BAD, down=BAD,
        starts=tuple(range(17)), kills=tuple(n + 0.7 for n in range(17)),
    )  # fmt: skip
    simulation = Simulation(bundle, setup)

    def memory_at(moment: float) -> int:
        simulation.run(until=moment)
        # What the simulation itself remembers is not the head's.
        logs = (simulation.decisions, simulation.sent, simulation.accepted, simulation.states)
        policy = simulation.policy
        for log in (*logs, simulation.refusals, policy.observed, policy.taught):
            log[:-1] = []
        simulation.arrivals.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early, late = memory_at(10.0), memory_at(16.5)
    finally:
        tracemalloc.stop()
    # 1,300 frames later; 40 bytes kept of each would show.
    assert late - early < 52_000, late - early
