# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One head with two cameras and one with one: two robots of a fleet that share its tail."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from processes import Peer, Process, node, private_domain, ready, values_of

from sparse_split_ros.evaluation.recorded import score
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import image_message
from sparse_split_ros.ros import Classification, DiagnosticArray, Header, Image, TimeMsg

# Each camera's image topic and where its answers appear.
CAMERAS = {'/fleet/r1/front': 'front', '/fleet/r1/left': 'left', '/fleet/r2': 'only'}
PICTURE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


class Fleet:
    """What was heard on each camera's topics."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.answers: dict[str, list[Classification]] = {name: [] for name in CAMERAS}
        self.decisions: dict[str, list[DiagnosticArray]] = {'/fleet/r1': [], '/fleet/r2': []}
        make = peer.node.create_publisher
        self.cameras = {name: make(Image, f'{name}/image', qos.RESULT) for name in CAMERAS}
        for name, heard in self.answers.items():
            peer.listen(Classification, f'{name}/classification', heard.append)
        for robot, decided in self.decisions.items():
            peer.listen(DiagnosticArray, f'{robot}/decision', decided.append)

    def send(self, name: str, number: int) -> None:
        header = Header(stamp=TimeMsg(sec=number), frame_id=CAMERAS[name])
        self.cameras[name].publish(image_message(PICTURE, header))

    def warm_up(self) -> None:
        """Send until the tail has answered each camera, then wait for the last of the answers."""
        for name, heard in self.answers.items():
            decided = self.decisions[name[: len('/fleet/r1')]]
            for _ in range(400):
                self.send(name, 0)
                if self.peer.wait(partial(self._offboard, heard, decided), 0.05):
                    break
            else:
                raise AssertionError(f'{name} is never answered by the tail')
        while self.peer.wait(partial(self._grew, self._count()), 0.3):
            pass

    @staticmethod
    def _offboard(heard: list[Classification], decided: list[DiagnosticArray]) -> bool:
        return bool(heard) and any(values_of(each)['route'] == 'offboard' for each in decided)

    def _count(self) -> int:
        return sum(map(len, self.answers.values()))

    def _grew(self, count: int) -> bool:
        return self._count() > count


@pytest.fixture(scope='module')
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    bundle = make_bundle(tmp_path_factory.mktemp('fleet') / 'bundle')
    common: dict[str, Any] = {'bundle': bundle.path, 'threshold': 1.0, 'deadline_ms': 10_000.0}
    with (
        private_domain(),
        node('head', remap={'__ns': '/fleet/r1'}, cameras=['front', 'left'], **common) as first,
        node('head', remap={'__ns': '/fleet/r2'}, **common) as second,
        node('tail', bundle=bundle.path, remap={'__ns': '/fleet'}, robots=['r1', 'r2']) as tail,
        Peer() as peer,
    ):
        for process in (first, second, tail):
            ready(process)
        fleet = Fleet(peer)
        fleet.warm_up()
        yield fleet


@pytest.mark.parametrize('name', CAMERAS)
def test_an_answer_appears_where_its_image_came_from(fleet: Fleet, name: str) -> None:
    before = {other: len(heard) for other, heard in fleet.answers.items()}
    fleet.send(name, 77)
    assert fleet.peer.wait(lambda: len(fleet.answers[name]) > before[name])
    header = fleet.answers[name][-1].header
    assert (header.stamp.sec, header.frame_id) == (77, CAMERAS[name])
    others = {other: len(heard) for other, heard in fleet.answers.items() if other != name}
    assert others == {other: before[other] for other in others}


def test_both_robots_are_answered_by_the_one_tail(fleet: Fleet) -> None:
    for name, robot in (('/fleet/r1/left', '/fleet/r1'), ('/fleet/r2', '/fleet/r2')):
        before = len(fleet.decisions[robot])
        fleet.send(name, 78)
        assert fleet.peer.wait(
            lambda robot=robot, before=before: len(fleet.decisions[robot]) > before
        )
        assert values_of(fleet.decisions[robot][-1])['route'] == 'offboard'
    served = fleet.peer.diagnosed('/fleet/tail: replies')
    assert served['robots'] == 'r1, r2'


def test_a_run_with_two_cameras_is_recorded_and_scored(fleet: Fleet, tmp_path: Path) -> None:
    peer, decided, count = fleet.peer, fleet.decisions['/fleet/r1'], 6
    command = ('-m', 'sparse_split_ros.cli', 'record', str(tmp_path / 'flown'))
    options = ('--cameras', 'front', 'left', '--ros-args', '-r', '__ns:=/fleet/r1')
    numbers = iter(range(100, 1000))

    def answered() -> None:
        before, number = len(decided), next(numbers)
        fleet.send(('/fleet/r1/front', '/fleet/r1/left')[number % 2], number)
        assert peer.wait(lambda: len(decided) > before)

    with Process(*command, *options) as recorder:
        recorder.wait_for('recording into')
        while not recorder.having('hears decisions and answers: 2 cameras'):
            answered()
        for _ in range(count):
            answered()
        assert recorder.stop() == 0, recorder.output
    recorded = score(tmp_path / 'flown').outcomes[-count:]
    assert all(each.answer is not None and each.route is not None for each in recorded)
