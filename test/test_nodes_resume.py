# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A replay begins when those who listen take messages, and not before. Needs ROS 2."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('rosbag2_interfaces')

from processes import Process, private_domain

# What `ros2 bag play --start-paused` has, and a head that takes its time before it spins.
PLAYER = """
import rclpy
from rosbag2_interfaces.srv import Resume
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('rosbag2_player')
publisher = node.create_publisher(Image, '/image', 10)
def resume(request, response):
    print('resumed', flush=True)
    return response
node.create_service(Resume, '~/resume', resume)
print('player is there', flush=True)
rclpy.spin(node)
"""
LISTENER = """
import sys, time
from pathlib import Path
import rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('head', namespace='r1')
node.create_subscription(Image, '/image', lambda message: None, 1)
print('listener is there', flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.02)
rclpy.spin(node)
"""


@pytest.fixture(autouse=True)
def domain() -> Iterator[None]:
    with private_domain():
        yield


def test_the_player_is_resumed_once_the_listener_spins(tmp_path: Path) -> None:
    with (
        Process('-c', PLAYER) as player,
        Process('-c', LISTENER, str(tmp_path / 'spin')) as listener,
        Process('-m', 'sparse_split_ros.nodes.resume') as resume,
    ):
        player.wait_for('player is there')
        listener.wait_for('listener is there')
        with pytest.raises(AssertionError, match='was not said'):
            player.wait_for('resumed', patience=1.5)
        (tmp_path / 'spin').touch()
        player.wait_for('resumed')
        assert resume.wait() == 0 and not resume.having('nobody')


def test_the_player_waits_for_a_recorder_too(tmp_path: Path) -> None:
    (tmp_path / 'spin').touch()
    topics = ('--ros-args', '-p', 'topics:=[/image, /decision]')
    with (
        Process('-c', PLAYER) as player,
        Process('-c', LISTENER, str(tmp_path / 'spin')) as listener,
        Process('-m', 'sparse_split_ros.nodes.resume', *topics) as resume,
    ):
        listener.wait_for('listener is there')
        with pytest.raises(AssertionError, match='was not said'):
            player.wait_for('resumed', patience=1.5)
        with Process('-m', 'sparse_split_ros.cli', 'record', str(tmp_path / 'bag')) as recorder:
            recorder.wait_for('recording into')
            player.wait_for('resumed')
            assert resume.wait() == 0 and not resume.having('nobody')


def test_a_signal_ends_the_wait_quietly() -> None:
    with Process('-X', 'importtime', '-m', 'sparse_split_ros.nodes.resume') as resume:
        resume.wait_for('rosbag2_interfaces.srv')
        assert resume.stop(signal.SIGINT) == 0
        assert 'Traceback' not in resume.output
