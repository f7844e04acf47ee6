# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What travels in a hierarchical training arrives as it left, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import save  # noqa: E402

from sparse_split_ros.networks.bottleneck import quantise  # noqa: E402
from sparse_split_ros.training.messages import (  # noqa: E402
    Batch,
    Report,
    Weights,
    check_labels,
    pack,
    parse,
    to_bytes,
    unpack,
)
from sparse_split_ros.training.recipe import TrainingError  # noqa: E402


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_codes_arrive_as_they_left(bits: int, channels: int, side: int, seed: int) -> None:
    x = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(seed))
    codes = quantise(x, bits)
    packed = pack(codes, bits)
    assert packed.shape[1] == (codes[0].numel() if bits > 4 else -(-codes[0].numel() // 2))
    torch.testing.assert_close(unpack(packed, tuple(codes.shape[1:]), bits), codes)


@pytest.mark.parametrize('bits', range(1, 9))
def test_every_level_comes_back_of_bfloat16_too(bits: int) -> None:
    top = (1 << bits) - 1
    levels = torch.arange(top + 1) / top
    x = quantise(levels.view(1, 1, 1, -1).to(torch.bfloat16), bits)
    assert torch.equal(unpack(pack(x, bits), (1, 1, top + 1), bits).flatten(), levels)


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(TrainingError, match=r'7 bytes came, \(2, 4, 4\) needs 16'):
        unpack(torch.zeros(1, 7, dtype=torch.uint8), (2, 4, 4), 4)


def test_what_travels_arrives_whole() -> None:
    batch = Batch(
        2, 5, torch.randint(0, 255, (4, 6), dtype=torch.uint8), torch.tensor([0, 2, 1, 1])
    )
    came = parse(to_bytes(batch))
    assert isinstance(came, Batch) and (came.epoch, came.step) == (2, 5)
    assert torch.equal(came.codes, batch.codes) and torch.equal(came.labels, batch.labels)
    report = Report(2, {'edge_s': 1.5}, {'x': batch.codes}, {'x': batch.labels})
    back = parse(to_bytes(report))
    assert isinstance(back, Report) and (back.epoch, back.row) == (2, report.row)
    assert torch.equal(back.codes['x'], batch.codes) and torch.equal(back.labels['x'], batch.labels)
    weights = parse(to_bytes(Weights(2, {'a.b': (part := torch.rand(2))})))
    assert isinstance(weights, Weights) and weights.epoch == 2
    assert torch.equal(weights.tensors['a.b'], part)


def saying(words: bytes) -> bytes:
    return save({'about': torch.from_numpy(np.frombuffer(words, np.uint8).copy())})


def damaged() -> Iterator[bytes]:
    good = to_bytes(Batch(0, 0, torch.zeros(4, 6, dtype=torch.uint8), torch.zeros(4).long()))
    yield b''
    yield good[:20]
    yield good[:-1]
    yield b'\xff' * 8 + good[8:]
    yield to_bytes(Batch(0, 0, torch.zeros(4, 6), torch.zeros(4).long()))
    yield to_bytes(Batch(0, 0, torch.zeros(3, 6, dtype=torch.uint8), torch.zeros(4).long()))
    for about in ({'row': []}, {'row': {'a': 'b'}}, {'row': {'a': 10**400}}, {'epoch': '0'}):
        yield saying(json.dumps({'kind': 'Report', 'epoch': 0, 'row': {}} | about).encode())
    yield saying(b'[' * 100_000)
    bits = Report(0, {}, {'x': torch.zeros(4, 6, dtype=torch.uint8)}, {'x': torch.zeros(4)})
    yield to_bytes(bits)
    rng = np.random.default_rng(0)
    for _ in range(30):
        yield rng.integers(0, 256, 200, np.uint8).tobytes()


@pytest.mark.parametrize('data', list(damaged()))
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(TrainingError, match='no message of the edge'):
        parse(data)


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        ([0, -100], '-100 to 0 came, expected 0 to 2'),
        ([0, 3], '0 to 3 came, expected 0 to 2'),
        ([[0, 1]], 'expected 1 of an image'),
        ([], 'expected 1 of an image'),
    ],
)
def test_labels_of_no_class_are_refused(labels: list, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        check_labels(torch.tensor(labels, dtype=torch.int64), {'': ('r', 'g', 'b')})


def test_every_task_has_its_labels() -> None:
    tasks = {'colour': ('r', 'g', 'b'), 'blue': ('no', 'yes')}
    check_labels(torch.tensor([[2, 1], [0, 0]]), tasks)
    with pytest.raises(TrainingError, match='0 to 2 came, expected 0 to 1'):
        check_labels(torch.tensor([[2, 2], [0, 0]]), tasks)
    with pytest.raises(TrainingError, match='expected 2 of an image'):
        check_labels(torch.tensor([0, 1]), tasks)
