# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The player: every frame as recorded with its truth, or one error and an exit status."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from processes import PATIENCE, Peer, node, private_domain
from rosbags.rosbag2 import StoragePlugin, Writer

from sparse_split_ros import ros
from sparse_split_ros.data.bags import IMAGE, Frame, write_bag
from sparse_split_ros.data.pace import USUAL_RATE
from sparse_split_ros.embedded.types import typestore
from sparse_split_ros.nodes import player as player_module
from sparse_split_ros.nodes.messages import image_message, recorded_header
from sparse_split_ros.ros import Classification, Context, Image, Parameter, serialize_message

STAMP = 1_700_000_000_000_000_007
COUNT = 12


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('player') / 'bag'
    write_bag(path, frames())
    return path


@pytest.fixture(autouse=True, scope='module')  # a process stays in every domain it was in
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


def played_at(source: Path, **parameters: object) -> list[int]:
    """The times in ns at which the player published its images, by its own clock."""
    times: list[int] = []
    with Peer() as peer:
        peer.listen(Image, 'image', lambda message: times.append(nanoseconds(message)))
        with node('player', source=source, stamps='now', **parameters) as player:
            assert player.wait() == 0, player.output
            (said,) = player.having('played')
            count = int(said.split('played ')[1].split()[0])
            assert peer.wait(lambda: len(times) == count, 5.0)
            assert len(player.having('stamps stand still')) <= 1, player.output
    return times


def test_a_clock_that_was_set_does_not_hold_up_what_follows(tmp_path: Path) -> None:
    early = [replace(frame, stamp_ns=0) for frame in frames()[:1]]
    write_bag(tmp_path / 'bag', early + frames()[1:])
    with node('player', source=tmp_path / 'bag', subscribers=0) as player:
        assert player.wait() == 0, player.output
        assert player.having(f'played {COUNT} frames')
        (warning,) = player.having('stamps stand still')
        assert f'first at {frames()[1].stamp_ns} ns' in warning


def test_images_without_stamps_come_at_a_usual_rate(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', [replace(frame, stamp_ns=0, label=None, scene=None)
                                 for frame in frames()])  # fmt: skip
    times = played_at(tmp_path / 'bag', rate=0.5)
    # How late the first one was is not known.
    assert times[-1] - times[0] > 0.5 * (COUNT - 1) / (0.5 * USUAL_RATE) * 1e9


def test_negative_stamps_are_played_as_they_are(tmp_path: Path) -> None:
    recorded = [-5 * 10**9 + index * 20_000_000 for index in range(3)]
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channel = writer.add_connection('/image', IMAGE, typestore=typestore())
        for index, stamp in enumerate(recorded):
            image = image_message(frames()[0].image, recorded_header(stamp, 'front'))
            writer.write(channel, index, serialize_message(image))
    stamps: list[int] = []
    with Peer() as peer:
        peer.listen(Image, 'image', lambda message: stamps.append(nanoseconds(message)))
        with node('player', source=tmp_path / 'bag') as player:
            assert player.wait() == 0, player.output
            assert peer.wait(lambda: len(stamps) == 3, 5.0)
    assert stamps == recorded


def test_a_loop_ends_at_the_limit_of_all_its_passes(bag: Path) -> None:
    assert len(played_at(bag, loop=True, limit=2 * COUNT + 3)) == 2 * COUNT + 3


@pytest.mark.parametrize('count', [1, 2])
def test_a_loop_starts_again_one_step_after_the_last_frame(tmp_path: Path, count: int) -> None:
    write_bag(tmp_path / 'bag', frames()[:count])
    times = played_at(tmp_path / 'bag', loop=True, limit=5 * count, rate=0.5)
    step = 1 / USUAL_RATE if count == 1 else 0.02
    pauses = [later - last for last, later in zip(times[count - 1 :: count], times[count::count])]
    # A thousandth is for the clock of the day, which runs a little otherwise than that of waiting.
    assert len(pauses) == 4 and min(pauses) > 0.999 * step / 0.5 * 1e9


def test_a_fault_of_ours_shows_its_trace_and_is_no_success(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    shown = threading.Event()

    def broken(*_: object, **__: object) -> Iterator[Frame]:
        raise ZeroDivisionError

    def show(error: threading.ExceptHookArgs) -> None:
        raised.append(error.exc_type)
        shown.set()

    monkeypatch.setattr(player_module, 'open_source', broken)
    monkeypatch.setattr(threading, 'excepthook', show)
    context = Context()
    ros.init(args=[], context=context, domain_id=domain)
    player = player_module.PlayerNode(
        context=context, parameter_overrides=[Parameter('source', value='drive')]
    )
    assert shown.wait(PATIENCE)
    assert (player.done, player.exit_status, raised) == (True, 1, [ZeroDivisionError])
    player.destroy_node()
    context.try_shutdown()


def test_without_a_subscriber_it_says_so_and_plays_anyway(bag: Path) -> None:
    with node('player', source=bag, wait_s=0.1) as player:
        assert player.wait() == 0
        assert player.having('0 subscribers after 0.1 s, playing anyway')


def test_a_picture_that_cannot_be_decoded_is_passed_over(tmp_path: Path) -> None:
    for name in ('1.png', '3.png'):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / '2.png').write_bytes((tmp_path / '1.png').read_bytes()[:20])
    with node('player', source=tmp_path, wait_s=0.1) as player:
        assert player.wait() == 0
        (line,) = player.having('passed over: ')
        assert '2.png' in line
        assert player.having('played 2 frames')


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
