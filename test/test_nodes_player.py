# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The player: every frame as recorded with its truth, or one error and an exit status."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import Peer, node, private_domain
from rosbags.rosbag2 import StoragePlugin, Writer

from sparse_split_ros.data.bags import Frame, write_bag
from sparse_split_ros.embedded.types import typestore
from sparse_split_ros.ros import Classification, Image

STAMP = 1_700_000_000_000_000_007
COUNT = 12


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('player') / 'bag'
    write_bag(path, frames())
    return path


@pytest.fixture(autouse=True)
def domain() -> Iterator[int]:
    with private_domain() as number:
        yield number


def frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    return [
        Frame(
            STAMP + 20_000_000 * index,
            'front',
            rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8),
            f'sign {index}',
            'rain',
            index / 16,
        )
        for index in range(COUNT)
    ]


def nanoseconds(message: Image | Classification) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


@pytest.mark.parametrize('parameters', [{}, {'limit': 5}, {'rate': 4.0}])
def test_a_bag_is_played_as_it_was_recorded(bag: Path, parameters: dict[str, float]) -> None:
    said: list[tuple[str, int, object]] = []

    def seen(message: Image) -> None:
        said.append(('image', nanoseconds(message), (message.encoding, bytes(message.data))))

    def heard(topic: str, message: Classification) -> None:
        result = message.results[0]
        said.append((topic, nanoseconds(message), (result.class_id, result.score)))

    with Peer() as peer:
        peer.listen(Image, 'image', seen)
        for topic in ('ground_truth', 'scene'):
            peer.listen(Classification, topic, partial(heard, topic))
        with node('player', source=bag, **parameters) as player:
            assert player.wait() == 0, player.output
            count = int(parameters.get('limit', COUNT))
            assert player.having(f'played {count} frames')
            assert peer.wait(lambda: len(said) == 3 * count, 5.0)
    for name, contents in (
        ('image', [('rgb8', frame.image.tobytes()) for frame in frames()]),
        ('ground_truth', [(frame.label, 1.0) for frame in frames()]),
        ('scene', [('rain', frame.severity) for frame in frames()]),
    ):
        got = [(stamp, content) for kind, stamp, content in said if kind == name]
        expected = [(STAMP + 20_000_000 * index, contents[index]) for index in range(count)]
        assert got == expected


def test_a_loop_starts_again_until_it_is_told_to_end(bag: Path) -> None:
    stamps: list[int] = []
    with Peer() as peer, node('player', source=bag, loop=True, rate=100.0) as player:
        peer.listen(Image, 'image', lambda message: stamps.append(nanoseconds(message)))
        assert peer.wait(lambda: stamps.count(STAMP) >= 3)
        assert player.stop(signal.SIGINT) == 0
        assert 'Traceback' not in player.output


def test_without_a_subscriber_it_says_so_and_plays_anyway(bag: Path) -> None:
    with node('player', source=bag, wait_s=0.1) as player:
        assert player.wait() == 0
        assert player.having('0 subscribers after 0.1 s, playing anyway')


def no_bag(bag: Path, path: Path) -> str:
    return 'does not exist'


def not_a_bag(bag: Path, path: Path) -> str:
    path.mkdir()
    (path / 'readme.txt').write_text('nothing to see')
    return 'no image'


def empty_bag(bag: Path, path: Path) -> str:
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/image', 'sensor_msgs/msg/Image', typestore=typestore())
    return 'holds no images'


def cut_bag(bag: Path, path: Path) -> str:
    shutil.copytree(bag, path)
    storage = next(path.glob('*.mcap'))
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 3])
    return ''


@pytest.mark.parametrize('make', [no_bag, not_a_bag, empty_bag, cut_bag])
def test_what_cannot_be_played_is_one_error_at_once(
    bag: Path, tmp_path: Path, make: Callable[[Path, Path], str]
) -> None:
    path = tmp_path / 'source'
    word = make(bag, path)
    with node('player', source=path, wait_s=600.0) as player:
        assert player.wait() == 1, player.output
        assert len(player.having('ERROR')) == 1, player.output
        assert 'Traceback' not in player.output
        assert word in player.output and 'source' in player.having('ERROR')[0]


def test_without_a_source_it_says_what_to_name() -> None:
    with node('player') as player:
        assert player.wait() == 1
        assert len(player.having('error: parameter source is empty')) == 1
