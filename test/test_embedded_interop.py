# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The embedded runtime against DDS implementations that share no code with it.

Each exchange runs in a network namespace of its own with nothing but a loopback interface.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from sparse_split_ros.embedded.types import dds_type_name, typestore

INTEROP = Path(__file__).parent / 'interop'
ROOT = Path(__file__).parent.parent
TYPES = ['std_msgs/msg/String', 'sensor_msgs/msg/CompressedImage']
DOMAIN = '42'  # a namespace each, so all may use the same


@pytest.fixture(scope='session')
def isolated() -> list[str]:
    """Return the command that opens a network namespace, for which no rights are needed."""
    command = ['unshare', '--map-root-user', '--net']
    if shutil.which('unshare') is None:
        pytest.skip('unshare (util-linux) is not installed')
    if subprocess.run([*command, 'true'], capture_output=True, check=False).returncode:
        pytest.skip('this machine does not allow user namespaces')
    return command


def exchange(isolated: list[str], type_name: str, peer: list[str], **more: str) -> None:
    """Demand that the peer echoes every message of a type unchanged."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ('ROS_LOCALHOST_ONLY', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'CYCLONEDDS_URI')
    }
    environment.update(PYTHONPATH=str(ROOT), SPARSE_SPLIT_TRANSPORT='dds', **more)
    command = [*isolated, sys.executable, str(INTEROP / 'exchange.py'), type_name, DOMAIN, *peer]
    done = subprocess.run(
        command, env=environment, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'came back unchanged' in done.stdout


@pytest.mark.parametrize('type_name', TYPES)
def test_dora_rs_echoes_our_messages(isolated: list[str], type_name: str, tmp_path: Path) -> None:
    if find_spec('dora') is None or version('dora-rs') < '1':
        pytest.skip('no dora-rs 1.x: pip install "dora-rs>=1.1,<2" on Python 3.11 or later')
    for name in (*TYPES, 'std_msgs/msg/Header', 'builtin_interfaces/msg/Time'):
        package = tmp_path / 'share' / name.partition('/')[0]
        (package / 'msg').mkdir(parents=True, exist_ok=True)
        (package / 'package.xml').write_text(f'<package><name>{package.name}</name></package>')
        text = typestore().generate_msgdef(name, ros_version=2)[0].partition('=' * 80)[0]
        (package / 'msg' / f'{name.rpartition("/")[2]}.msg').write_text(text)
    peer = [sys.executable, str(INTEROP / 'dora_peer.py'), type_name.replace('/msg', '')]
    exchange(isolated, type_name, peer, AMENT_PREFIX_PATH=str(tmp_path))


@pytest.fixture(scope='session')
def fast_dds_peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled echo of Fast DDS."""
    if shutil.which('g++') is None:
        pytest.skip('g++ is not installed')
    if not Path('/usr/include/fastdds/dds/topic/TopicDataType.hpp').exists():
        pytest.skip('Fast DDS is not installed: apt-get install libfastrtps-dev')
    program = tmp_path_factory.mktemp('fastdds') / 'peer'
    source = str(INTEROP / 'fastdds_peer.cpp')
    command = ['g++', '-std=c++17', '-O1', source, '-o', str(program), '-lfastrtps', '-lfastcdr']
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize('type_name', TYPES)
def test_fast_dds_echoes_our_messages(
    isolated: list[str], type_name: str, fast_dds_peer: Path
) -> None:
    exchange(isolated, type_name, [str(fast_dds_peer), DOMAIN, dds_type_name(type_name)])
