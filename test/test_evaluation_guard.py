# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped bundle's costs, bytes, routes and agreement stay what guard.json says they are."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / 'benchmarks'))

import guard


def test_the_figures_are_the_committed_ones() -> None:
    assert guard.differences(json.loads(guard.FILE.read_text('utf-8')), guard.measure()) == []


@pytest.mark.parametrize(
    ('name', 'value'), [('accuracy', -0.03), ('local', -0.03), ('payload_mean', 20.0)]
)
def test_a_figure_that_moves_is_named(name: str, value: float) -> None:
    known = json.loads(guard.FILE.read_text('utf-8'))
    moved = copy.deepcopy(known)
    moved['policies']['fixed'][name] += value
    assert [text.split(':')[0] for text in guard.differences(known, moved)] == [f'fixed {name}']
