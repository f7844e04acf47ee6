# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The recorder: what it was told to keep, until when, and what it says of what it does not hear."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from processes import BLACK, PATIENCE, Peer, Process, private_domain

from sparse_split_ros.cli import main
from sparse_split_ros.data.bags import CLASSIFICATION, read_bag, read_messages
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes import recorder as recorder_module
from sparse_split_ros.nodes.messages import named, octets
from sparse_split_ros.nodes.recorder import RecorderNode, RecorderOptions
from sparse_split_ros.ros import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    KeyValue,
    SingleThreadedExecutor,
    TimeMsg,
)

# In every warning of the recorder's own.
MISSED = "of the head's"
DECISION = 'diagnostic_msgs/msg/DiagnosticArray'


@pytest.fixture(autouse=True, scope='module')  # a process stays in every domain it was in
def domain() -> Iterator[int]:
    with private_domain() as number:
        yield number


class Head(Peer):
    """Says what a head says, without computing anything."""

    def __init__(self, answer: str = 'classification', decision: str = 'decision') -> None:
        super().__init__()
        self.number = 0
        self.answering = self.node.create_publisher(Classification, answer, qos.RESULT)
        self.deciding = self.node.create_publisher(DiagnosticArray, decision, qos.RESULT)
        self.showing = self.node.create_publisher(
            CompressedImage, '/front/image_raw/compressed', qos.RESULT
        )

    def say(self, sources: int = 1, message: str = '') -> None:
        """An image, its answer and its decision; further cameras only decide."""
        self.number += 1
        header = Header(stamp=TimeMsg(sec=self.number), frame_id='camera')
        picture = cv2.imencode('.png', BLACK)[1]
        self.showing.publish(
            CompressedImage(header=header, format='png', data=octets(picture.ravel()))
        )
        self.answering.publish(named(header, 'stop'))
        for source in range(sources):
            values = [KeyValue(key='source', value=str(source))]
            status = DiagnosticStatus(name='decision', message=message, values=values)
            self.deciding.publish(DiagnosticArray(header=header, status=[status]))

    def until(self, end: Callable[[], object], say: Callable[[], None], every: float) -> None:
        """Say it again and again, for nobody tells when the recorder has found this side."""
        last = time.monotonic() + PATIENCE
        while not end():
            assert time.monotonic() < last, 'it does not happen'
            say()
            self.pause(every)


def record(*options: object, prefix: tuple[str, ...] = ()) -> Process:
    return Process('-m', 'sparse_split_ros.cli', 'record', *map(str, options), prefix=prefix)


def ended(process: Process) -> Callable[[], bool]:
    return lambda: process.popen.poll() is not None


def decisions(bag: Path) -> int:
    return sum(topic == '/decision' for topic, *_ in read_messages(bag, (DECISION,)))


@pytest.mark.parametrize('clock', ['true', 'false'])
def test_it_ends_at_its_limit_whatever_the_clock(tmp_path: Path, clock: str) -> None:
    parameters = ('--ros-args', '-p', f'use_sim_time:={clock}')
    with record(tmp_path / 'bag', '--limit', 5, *parameters) as recorder, Head() as head:
        head.until(ended(recorder), lambda: [head.say() for _ in range(20)], 0.05)
        assert recorder.wait() == 0, recorder.output
    assert decisions(tmp_path / 'bag') == 5


def test_it_ends_when_nothing_more_comes_though_ros_time_stands_still(tmp_path: Path) -> None:
    parameters = ('--ros-args', '-p', 'use_sim_time:=true')
    with record(tmp_path / 'bag', '--idle', 0.2, *parameters) as recorder, Head() as head:
        head.until(ended(recorder), head.say, 1.0)
        assert recorder.wait() == 0, recorder.output
    assert decisions(tmp_path / 'bag') == 1


@pytest.mark.parametrize('end', [('--limit', 3), ('--idle', 0.2)])
def test_it_ends_though_decisions_are_on_a_remapped_topic(
    tmp_path: Path, end: tuple[str, object]
) -> None:
    remapped = ('--ros-args', '-r', 'decision:=/r1/verdicts')
    with (
        record(tmp_path / 'bag', *end, *remapped) as recorder,
        Head(decision='/r1/verdicts') as head,
    ):
        head.until(ended(recorder), head.say, 1.0)
        assert recorder.wait() == 0, recorder.output


def test_the_answer_of_a_task_called_decision_is_no_decision(tmp_path: Path) -> None:
    with (
        record(tmp_path / 'bag', '--tasks', 'decision', '--limit', 3) as recorder,
        Head(answer='classification/decision') as head,
    ):
        head.until(ended(recorder), head.say, 0.05)
        assert recorder.wait() == 0, recorder.output
    assert decisions(tmp_path / 'bag') == 3


def test_compressed_images_of_a_remapped_topic_are_recorded(tmp_path: Path) -> None:
    options = ('--images', '--image-transport', 'compressed', '--limit', 3)
    remapped = ('--ros-args', '-r', 'image:=/front/image_raw')
    with record(tmp_path / 'bag', *options, *remapped) as recorder, Head() as head:
        head.until(ended(recorder), head.say, 0.05)
        assert recorder.wait() == 0, recorder.output
    assert all(np.array_equal(frame.image, BLACK) for frame in read_bag(tmp_path / 'bag'))
    assert not recorder.having(MISSED)


def test_it_says_while_it_runs_what_it_does_not_hear(tmp_path: Path) -> None:
    with record(tmp_path / 'bag', '--images') as recorder, Head() as head:
        head.until(lambda: len(recorder.having(MISSED)) > 1, lambda: head.say(sources=2), 0.1)
        assert recorder.stop() == 0
    answers, images = recorder.having(MISSED)
    for word in ('answers of 1 of', '2 cameras', '/classification', '--cameras'):
        assert word in answers
    for word in ('images of 2 of', 'on /image:', 'image:=', '--image-transport'):
        assert word in images


@pytest.mark.parametrize('hours', [-1, 24])
def test_a_clock_set_in_mid_run_is_no_pause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hours: int
) -> None:
    start = time.time_ns()
    with Head() as head:
        recorder = RecorderNode(RecorderOptions(tmp_path / 'bag', limit=2), context=head.context)
        executor = SingleThreadedExecutor(context=head.context)
        executor.add_node(recorder)

        def say() -> None:
            head.say()
            executor.spin_once(timeout_sec=0.1)

        head.until(lambda: recorder.decisions, say, 0.05)
        monkeypatch.setattr(time, 'time_ns', lambda: start + hours * 3600 * 10**9)
        head.until(lambda: recorder.done, say, 0.05)
        recorder.stop()
        executor.shutdown()
        recorder.destroy_node()
    received = [each for *_, each, _ in read_messages(tmp_path / 'bag', (CLASSIFICATION, DECISION))]
    assert start < received[0] and received[-1] < start + 2 * PATIENCE * 1e9


@pytest.mark.parametrize('size', [1_000, 2**20])
def test_a_full_disk_is_one_error_that_says_what_can_be_saved(tmp_path: Path, size: int) -> None:
    bag = tmp_path / 'bag'
    # A small recording is only written at its end, a large one while it grows.
    full = ('bash', '-c', 'ulimit -f 64; exec "$@"', 'bash')
    with record(bag, '--limit', 100, prefix=full) as recorder, Head() as head:
        head.until(ended(recorder), lambda: head.say(message='x' * size), 0.02)
        assert recorder.wait() == 1, recorder.output
    (error,) = recorder.having('ERROR')
    assert str(bag) in error and f'mcap recover {bag / "bag.mcap"}' in error
    assert recorder.having('decisions') and 'Traceback' not in recorder.output


@pytest.mark.parametrize(
    ('head', 'namespace', 'cameras'),
    [
        ('/**/head', '/', ['front', 'left']),
        ('/r1/head', '/r1', ['front', 'left']),
        ('/r1/head', '/r2', ['']),
        ('/**/tail', '/', ['']),
    ],
)
def test_the_heads_parameter_file_names_its_cameras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str, namespace: str, cameras: list[str]
) -> None:
    file = tmp_path / 'mine.yaml'
    file.write_text(f'{head}: {{ros__parameters: {{cameras: [front, left]}}}}')
    asked: list[RecorderOptions] = []
    monkeypatch.setattr(recorder_module, 'record', lambda options, args: asked.append(options) or 0)
    ros_args = ['--ros-args', '-r', '__node:=recorder', '-r', f'__ns:={namespace}']
    assert main(['record', 'flown', '--head-parameters', str(file), *ros_args]) == 0
    assert asked[0].cameras == tuple(cameras)


def test_a_camera_that_cannot_be_leaves_no_bag(tmp_path: Path) -> None:
    with record(tmp_path / 'bag', '--cameras', 'my-cam') as recorder:
        assert recorder.wait() == 1, recorder.output
    assert recorder.having('error: ') and not (tmp_path / 'bag').exists()
