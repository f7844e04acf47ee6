# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""No arrow runs up: which rooms import which, as docs/architecture.md has it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'sparse_split_ros'
ARROWS = {
    'link': {'native'},
    'policy': {'link'},
    'native': {'runtime'},
    'runtime': {'link', 'policy', 'data', 'native', 'networks'},
    'nodes': {'runtime', 'policy', 'link', 'data', 'ros'},
    'ros': {'embedded'},
    'embedded': set(),
    'data': {'embedded', 'vision'},
    'vision': set(),
    'sparsity': set(),
    'networks': {'sparsity', 'vision', 'runtime'},
    'evaluation': {'runtime', 'policy', 'link', 'data'},
    'training': {'networks', 'sparsity', 'runtime', 'policy', 'link', 'data', 'evaluation'},
}
# Of rooms that are open to these modules alone.
DOORS = {
    ('link', 'native'): {'link/codec.py'},
    ('runtime', 'native'): {'runtime/engine.py'},
    ('runtime', 'networks'): {'runtime/engine.py'},
    ('networks', 'runtime'): {'networks/torch_engine.py'},
    ('data', 'embedded'): {'data/bags.py'},
}
RUN_TIME = ('link', 'policy', 'native', 'runtime', 'nodes')


def files_of(room: str) -> list[Path]:
    return [*(PACKAGE / room).glob('*.py'), *PACKAGE.glob(f'{room}.py')]


@pytest.mark.parametrize('room', ARROWS)
def test_a_room_imports_only_those_it_may(room: str) -> None:
    assert files_of(room)
    for file in files_of(room):
        name = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith(PACKAGE.name):
                other = f'{node.module}.'.split('.')[1] or node.names[0].name
                if other not in (room, '__version__'):
                    assert other in ARROWS[room], f'{name} imports {other}'
                    assert name in DOORS.get((room, other), {name}), f'{name} imports {other}'


def test_what_a_robot_runs_imports_no_torch() -> None:
    modules = [
        '.'.join(file.relative_to(PACKAGE.parent).with_suffix('').parts)
        for room in RUN_TIME
        for file in files_of(room)
        if room != 'native'  # which may not be built
    ]
    code = f'import sys, {", ".join(modules)}; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'
