# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The threads that share a frame: how long they stay awake for the next, and what a fork leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / 'sparse_split_ros' / 'native'
COMPILER = shutil.which(os.environ.get('CXX', 'g++'))
IMAGE = np.random.default_rng(0).normal(size=(1, 64, 32, 32)).astype(np.float32)


def session(threads: int) -> Any:
    """One layer of some 40 million products, which is worth sharing."""
    weight = np.random.default_rng(1).normal(size=(64, 64, 3, 3)).astype(np.float32)
    program = native.Program()
    x = program.tensor(64, 32, 32)
    program.begin('m', x)
    program.end(program.global_average(program.conv(x, weight, kernel=(3, 3), padding=(1, 1))))
    program.finish()
    return native.Session(program, [], threads)


@pytest.mark.skipif(COMPILER is None, reason='there is no C++ compiler')
def test_a_helper_stays_awake_for_a_time_and_not_for_a_count_of_turns(tmp_path: Path) -> None:
    program = tmp_path / 'native_team'
    sources = [NATIVE / 'team.cpp', ROOT / 'test' / 'native_team.cpp']
    subprocess.run(
        [COMPILER, '-std=c++17', '-O2', '-pthread', f'-I{NATIVE}', *sources, '-o', program],
        check=True,
    )  # fmt: skip
    result = subprocess.run([program], capture_output=True, text=True, check=False, timeout=200)
    assert result.stdout == 'slept in time\n', result.stderr


FORKS = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_native_team import IMAGE, session

running = session(threads=3)
expected = running.run_model(0, IMAGE, False)
time.sleep(float(sys.argv[2]))
child = os.fork()
if child == 0:
    same = (running.run_model(0, IMAGE, False) == expected).all() if sys.argv[3] == 'use' else True
    del running
    fresh = session(threads=3)
    same = same and (fresh.run_model(0, IMAGE, False) == expected).all()
    del fresh
    os._exit(0 if same else 3)
for _ in range(1000):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    os.waitpid(child, 0)
    sys.exit('the child hangs')
assert status == 0, f'the child ended with {status}'
assert (running.run_model(0, IMAGE, False) == expected).all()
del running
print('both ended')
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork')
@pytest.mark.parametrize('pause_s', [0.0, 0.05], ids=['awake', 'asleep'])
@pytest.mark.parametrize('act', ['drop', 'use'])
def test_a_forked_child_can_let_go_of_a_session(pause_s: float, act: str) -> None:
    """The child has the session and none of its helpers, which nobody must wait for."""
    result = subprocess.run(
        [sys.executable, '-c', FORKS, str(Path(__file__).parent), str(pause_s), act],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.stdout == 'both ended\n', result.stderr
