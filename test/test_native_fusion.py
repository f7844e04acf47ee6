# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What may run together, what stays in 8 bits, and what may stay in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

native = pytest.importorskip('sparse_split_ros.native._native')

from graphs import conv, graph, model, operation, safetensors  # noqa: E402

from sparse_split_ros.native.graph import Graph  # noqa: E402
from sparse_split_ros.native.plan import Step, _flat, fuse, in_codes, reads_planes  # noqa: E402

RNG = np.random.default_rng(0)
TENSORS = {
    'w': RNG.normal(size=(16, 16, 3, 3)).astype(np.float32),
    'image': RNG.normal(size=(16, 3, 3, 3)).astype(np.float32),
    'half': RNG.normal(size=(16, 8, 3, 3)).astype(np.float32),
    'blocks': np.array([[0, 1]], np.int32),
    'taps of 2': np.zeros((9, 1, 4), np.int32),
    'dense': RNG.normal(size=(5, 1024)).astype(np.float32),
    'fan': RNG.normal(size=(16, 8)).astype(np.float32),
}
SAME = {'kernel': [3, 3], 'padding': [1, 1]}


def parsed(operations: list[dict[str, Any]], shape: tuple[int, ...] = (16, 8, 8)) -> Any:
    data = safetensors(TENSORS)
    return Graph(graph({'m': model(shape, (16, 8, 8), operations)}), data).model('m')


def steps(operations: list[dict[str, Any]]) -> list[Step]:
    return fuse(parsed(operations))


def test_blocks_of_fewer_than_four_inputs_stay_in_float32() -> None:
    narrow = conv('x', 'a', 'half', None, **SAME) | {'blocks': 'taps of 2', 'width': 2}
    wide = conv('a', 'b', 'half', None, **SAME) | {'blocks': 'blocks', 'width': 4}
    grouped = conv('b', 'c', 'half', None, **SAME) | {'groups': 2}
    found = steps([narrow, wide, grouped, conv('c', 'y', 'w', None, **SAME)])
    in_codes(found, False)
    assert [step.codes for step in found] == [None, False, None, False]


def test_what_a_sum_adds_is_read_by_it() -> None:
    # 'a' is added by a step in 8 bits, and read by one in float32: it has to be real.
    found = steps([
        conv('x', 'a', 'w', None, **SAME),
        conv('a', 'b', 'w', None, **SAME),
        operation('add', ['b', 'a'], 'c'),
        operation('sigmoid', ['c'], 'y'),
    ])  # fmt: skip
    in_codes(found, False)
    assert [(s.output, s.residual, s.codes) for s in found] == [
        ('a', None, True), ('c', 'a', False), ('y', None, None),
    ]  # fmt: skip
    # A grouped convolution is in float32, and so is what it adds, whoever else reads that.
    groups = conv('x', 'b', 'half', None, **SAME) | {'groups': 2}
    found = steps([
        conv('x', 'a', 'w', None, **SAME), groups, operation('add', ['a', 'b'], 'c'),
        conv('a', 'd', 'w', None, **SAME), operation('add', ['d', 'c'], 'y'),
    ])  # fmt: skip
    in_codes(found, False)
    assert {s.output: (s.residual, s.codes) for s in found} == {
        'a': (None, False), 'c': ('a', None), 'y': ('c', False),
    }  # fmt: skip


def test_a_step_reaches_as_far_as_the_last_it_took_in() -> None:
    (found,) = steps([
        conv('x', 'a', 'w', None, **SAME) | {'range': 9.0},
        operation('relu6', ['a'], 'y') | {'range': 6.0},
    ])  # fmt: skip
    assert found.reach == 6.0


def test_an_image_in_planes_is_read_by_dense_convolutions_alone() -> None:
    dense = conv('x', 'y', 'image', None, **SAME)
    assert reads_planes(parsed([dense], (3, 8, 8)))
    sparse = conv('x', 'y', 'half', None, **SAME) | {'blocks': 'blocks', 'width': 4}
    assert not reads_planes(parsed([sparse], (4, 8, 8)))
    assert not reads_planes(parsed([conv('x', 'y', 'w', None, **SAME)], (5, 8, 8)))
    assert not reads_planes(parsed([dense | {'groups': 3}], (3, 8, 8)))


def flat(*operations: dict[str, Any]) -> bool:
    found = steps(list(operations))
    (step,) = [each for each in found if each.operation.kind == 'flatten']
    return _flat(step, found)


def test_a_flatten_stays_in_blocks_where_a_dense_layer_alone_reads_it() -> None:
    def linear(x: str, y: str, **fields: Any) -> dict[str, Any]:
        dense = {'weight': 'dense', 'bias': None, 'blocks': None, 'width': 1}
        return operation('linear', [x], y, **(dense | fields))

    first, flatten = conv('x', 'a', 'w', None, **SAME), operation('flatten', ['a'], 'f')
    assert flat(first, flatten, linear('f', 'y'))
    blocks = {'weight': 'fan', 'blocks': 'blocks', 'width': 4}
    assert not flat(first, flatten, linear('f', 'y', **blocks))
    assert not flat(first, flatten, linear('f', 'g'), operation('relu', ['f'], 'y'))
    assert not flat(first, operation('flatten', ['a'], 'y'))
    assert not flat(operation('flatten', ['x'], 'f'), linear('f', 'y'))
    # Somebody else reads the map: as an input, or as what it adds.
    assert not flat(first, flatten, linear('f', 'g'), operation('sigmoid', ['a'], 'y'))
    second = conv('x', 'b', 'w', None, **SAME)
    assert not flat(first, flatten, linear('f', 'g'), second, operation('add', ['b', 'a'], 'y'))
