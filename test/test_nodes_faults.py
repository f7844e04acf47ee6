# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that are started wrong, meet a tail that does not fit, compute NaN, or are told to end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import make_bundle
from onnx import helper
from processes import Peer, Process, node, private_domain, ready, values_of

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.frame import FeatureFrame, Flag
from sparse_split_ros.nodes import qos
from sparse_split_ros.ros import CompressedImage, String
from sparse_split_ros.runtime.bundle import Bundle, write_manifest

SIGNALS = [signal.SIGINT, signal.SIGTERM]
BLACK, WHITE = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
SHUTDOWN_S = 2.0


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('faults') / 'bundle', bottleneck=None)


@pytest.fixture(autouse=True)
def domain() -> Iterator[int]:
    with private_domain() as number:
        yield number


def ends_with_one_error(process: Process) -> str:
    """Wait for its end; the one error line it printed."""
    with process:
        assert process.wait() == 1, process.output
    assert 'Traceback' not in process.output, process.output
    (line,) = process.having('error: ')
    return line


def clean(process: Process) -> None:
    """It printed no trace and no error."""
    for word in ('Traceback', 'ERROR', 'FATAL', 'Exception', 'terminate called'):
        assert word not in process.output, process.output


def tampered(directory: Path) -> str:
    path = directory / 'stage_2.onnx'
    path.write_bytes(path.read_bytes()[:-1] + b'\0')
    return 'stage_2.onnx: SHA-256 is'


def missing(directory: Path) -> str:
    (directory / 'exit_2.onnx').unlink()
    return 'exit_2.onnx: listed in the manifest but missing'


def absent(directory: Path) -> str:
    shutil.rmtree(directory)
    return 'neither a directory with a manifest.json nor a bundle that is shipped'


def newer(directory: Path) -> str:
    path = directory / 'manifest.json'
    path.write_text(path.read_text().replace('sparse_split_bundle/1', 'sparse_split_bundle/9'))
    return "format 'sparse_split_bundle/9', this release reads"


@pytest.mark.parametrize('damage', [tampered, missing, absent, newer])
@pytest.mark.parametrize('name', ['head', 'tail'])
def test_a_damaged_bundle_is_one_error_line_and_an_exit_status(
    bundle: Bundle, tmp_path: Path, name: str, damage: Callable[[Path], str]
) -> None:
    copy = tmp_path / 'copy'
    shutil.copytree(bundle.path, copy)
    assert damage(copy) in ends_with_one_error(node(name, bundle=copy))


@pytest.mark.parametrize(
    ('name', 'parameters', 'words'),
    [
        ('head', {'split': 99}, ('split', '99')),
        ('head', {'deadline_ms': -1.0}, ('deadline_ms', '-1')),
        ('head', {'codec': 'int9'}, ('codec', 'int9', 'int8+zstd')),
        ('head', {'codec': 'none+zstd'}, ('none+zstd', 'not calibrated', 'int4')),
        ('head', {'roi': [1, 2, 3]}, ('roi', '[1, 2, 3]', '4 numbers')),
        ('head', {'image_transport': 'theora'}, ('image_transport', 'theora', 'compressed')),
        ('head', {'threads': 'many'}, ('threads', 'many')),
        ('tail', {'device': 'abacus'}, ('device', 'abacus', 'cuda')),
        ('head', {'cameras': []}, ('cameras', 'expected')),
        ('head', {'cameras': ['front', '/front']}, ('cameras', "['front', '/front']", 'once')),
        ('head', {'cameras': ['my-cam']}, ('topic name', 'must not contain')),
        ('head', {'qos_overrides./features.publisher.reliability': 'firm'}, ('reliab', 'firm')),
        ('head', {'qos_overrides./features.publisher.depth': -3}, ('depth', '-3')),
        ('tail', {'queue': 0}, ('queue', '0')),
        ('tail', {'robots': ['r1', 'r2', 'r1']}, ('robots', "['r1', 'r2', 'r1']", 'once')),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_with_a_reason(
    bundle: Bundle, name: str, parameters: dict[str, Any], words: tuple[str, ...]
) -> None:
    line = ends_with_one_error(node(name, bundle=bundle.path, **parameters))
    assert all(word in line for word in words), line


def test_a_tail_with_another_bundle_is_said_once_and_not_asked(
    bundle: Bundle, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / 'other', bottleneck=None, seed=1)
    with (
        node('head', bundle=bundle.path, threshold=1.0) as head,
        node('tail', bundle=other.path) as tail,
        Peer() as peer,
    ):
        ready(head)
        ready(tail)
        head.wait_for(f'serves bundle {other.fingerprint.hex()}')
        peer.warm_up()
        for number in range(30):
            _, decision = peer.ask(BLACK, (number, 1))
            assert (decision['route'], decision['reason']) == ('fallback', 'tail does not fit')
            assert decision['payload_bytes'] == '0'
        said = peer.diagnosed('/head: frames')
        assert (said['link'], said['sent']) == ('foreign', '0')
        assert len(head.having('ERROR')) == 1, head.output


def test_a_frame_that_computes_nan_is_lost_alone(bundle: Bundle, tmp_path: Path) -> None:
    # The first stage becomes the square root of its input: NaN for what is darker than the mean.
    broken = tmp_path / 'nan'
    shutil.copytree(bundle.path, broken)
    model = onnx.load(str(broken / 'stage_0.onnx'))
    model.graph.node.insert(0, helper.make_node('Sqrt', ['x'], ['s']))
    model.graph.node[1].input[0] = 's'
    onnx.save(model, str(broken / 'stage_0.onnx'))
    manifest = json.loads((broken / 'manifest.json').read_text())
    write_manifest(broken, {k: v for k, v in manifest.items() if k not in ('format', 'files')})
    with node('head', bundle=broken, threshold=0.0) as head, Peer() as peer:
        ready(head)
        head_of = '/head: frames'
        peer.warm_up('local', [WHITE])
        for failures in range(1, 4):
            peer.send(BLACK, (1, failures))
            said = peer.diagnosed(head_of, lambda v, n=failures: int(v['failed']) >= n)
            assert said['failed'] == str(failures)
            assert 'not finite' in said['last_error']
            _, decision = peer.ask(WHITE, (2, failures))
            assert decision['route'] == 'local'
        assert len(head.having('not finite')) == 1 and 'Traceback' not in head.output
        assert head.stop() == 0


def announce(peer: Peer, bundle: Bundle) -> list[FeatureFrame]:
    """Play a tail that is there and never answers; the features it gets."""
    status = peer.node.create_publisher(String, 'tail/status', qos.LATCHED)
    frames: list[FeatureFrame] = []

    def keep(message: CompressedImage) -> None:
        frames.append(FeatureFrame.parse(memoryview(message.data)))

    peer.listen(CompressedImage, 'features', keep, qos.WIRE)
    text = Announcement('silent', 1, (bundle.fingerprint.hex(),)).to_json()
    status.publish(String(data=text))
    stopping = threading.Event()

    def beat() -> None:
        while not stopping.wait(0.5) and peer.context.ok():
            status.publish(String(data=text))

    threading.Thread(target=beat, daemon=True).start()
    return frames


@pytest.mark.parametrize('number', SIGNALS)
def test_told_to_end_the_head_answers_what_is_pending(
    bundle: Bundle, number: signal.Signals
) -> None:
    with (
        node('head', bundle=bundle.path, threshold=1.0, deadline_ms=60_000.0) as head,
        Peer() as peer,
    ):
        ready(head)
        # Fast DDS may know a match on one side seconds before the other.
        peer.warm_up()
        frames = announce(peer, bundle)
        head.wait_for('tail silent is up')
        for count in range(1, 41):
            while len(frames) < count:
                peer.send(BLACK, (5, count))
                peer.wait(lambda n=count: len(frames) >= n, 0.1)
        assert not peer.classifications
        start = time.monotonic()
        assert head.stop(number) == 0
        assert time.monotonic() - start < SHUTDOWN_S
        peer.wait(lambda: len(peer.decisions) >= len(frames))
        reasons = [values_of(message)['reason'] for message in peer.decisions]
        assert reasons == ['shutdown'] * len(frames)
        assert len(peer.classifications) == len(frames)
        clean(head)


@pytest.mark.parametrize('seed', range(4))
def test_told_to_end_at_any_moment_both_nodes_end_in_order(bundle: Bundle, seed: int) -> None:
    rng = random.Random(seed)
    with (
        node('head', bundle=bundle.path, threshold=1.0) as head,
        node('tail', bundle=bundle.path) as tail,
        Peer() as peer,
    ):
        ready(head)
        ready(tail)
        frames: list[FeatureFrame] = []
        peer.listen(
            CompressedImage,
            'features',
            lambda message: frames.append(FeatureFrame.parse(memoryview(message.data))),
        )
        peer.warm_up('offboard')
        frames.clear()
        stopped: list[tuple[Process, int, float]] = []

        def stop() -> None:
            for process in rng.sample([head, tail], 2):
                peer.pause(rng.uniform(0.0, 0.2))
                start = time.monotonic()
                status = process.stop(rng.choice(SIGNALS))
                stopped.append((process, status, time.monotonic() - start))

        stopper = threading.Thread(target=stop)
        stopper.start()
        sent = 0
        while stopper.is_alive():
            sent += 1
            peer.send(BLACK, (sent, 0))
            peer.pause(0.004)
        stopper.join()
        for process, status, took in stopped:
            assert status == 0 and took < SHUTDOWN_S, (took, process.output)
            clean(process)
        asked = {frame.sequence for frame in frames if not frame.flags & Flag.PROBE}

        def decided() -> set[int]:
            return {int(values_of(message)['sequence']) for message in peer.decisions}

        assert peer.wait(lambda: asked <= decided(), 5.0), 'what was asked was answered'
        assert len(peer.classifications) == len(peer.decisions) == len(decided())


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc for the signals that are caught')
@pytest.mark.parametrize('name', ['head', 'tail'])
@pytest.mark.parametrize('number', SIGNALS)
def test_told_to_end_while_starting_a_node_ends_in_order(
    bundle: Bundle, name: str, number: signal.Signals
) -> None:
    code = f'from sparse_split_ros.nodes.entry import {name}; raise SystemExit({name}())'
    with Process('-c', code, '--ros-args', '-p', f'bundle:={bundle.path}') as process:
        status = Path(f'/proc/{process.popen.pid}/status')
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:
            assert process.popen.poll() is None, process.output
            line = next(line for line in status.read_text().splitlines() if 'SigCgt' in line)
            caught = int(line.split()[1], 16)
        assert process.stop(number) == 0
        clean(process)


@pytest.mark.parametrize('number', SIGNALS)
def test_a_node_told_to_end_again_and_again_ends_in_order(
    bundle: Bundle, number: signal.Signals
) -> None:
    # As by a person who is impatient, or by a terminal and launch both.
    with node('tail', bundle=bundle.path) as tail:
        ready(tail)
        while tail.popen.poll() is None:
            tail.popen.send_signal(number)
            time.sleep(1e-3)
        assert tail.wait() == 0
        clean(tail)


def test_no_flood_of_signals_is_too_much() -> None:
    # Faster than a handler in Python returns, which would recurse.
    code = (
        'import time; from sparse_split_ros.nodes.entry import listen, stopping; listen(); '
        'print("up", flush=True); end = time.monotonic() + 1\n'
        'while time.monotonic() < end: sum(range(100))\n'
        'raise SystemExit(0 if stopping.is_set() else 3)'
    )
    command = [sys.executable, '-c', code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b'up\n'
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            os.kill(process.pid, signal.SIGTERM)  # faster than send_signal
        assert (process.wait(), process.stderr.read()) == (0, b'')


def test_a_camera_whose_images_do_not_arrive_is_shown_with_what_may_help(bundle: Bundle) -> None:
    with Peer() as peer, node('head', bundle=bundle.path, no_image_warning_s=0.5) as head:
        (line,) = head.wait_for('no image for')[:1]
        assert 'image: 1 publishers (sensor_msgs/msg/Image' in line and 'receive buffers' in line
        ready(head)
        peer.warm_up('local')


def test_a_killed_tail_is_noticed_and_a_new_one_used(bundle: Bundle) -> None:
    with node('head', bundle=bundle.path, threshold=1.0) as head, Peer() as peer:
        with node('tail', bundle=bundle.path) as tail:
            ready(head)
            ready(tail)
            peer.warm_up('offboard')
            tail.kill()
        reasons = [peer.ask(BLACK, (number, 0))[1]['reason'] for number in range(40)]
        assert reasons[0] == 'deadline missed'
        assert set(reasons[1:]) == {'tail down'}
        assert len(head.wait_for('tail is down')) == 1
        with node('tail', bundle=bundle.path) as tail:
            ready(tail)
            head.wait_for('is up', times=2)
            peer.warm_up('offboard')
        assert head.stop() == 0
